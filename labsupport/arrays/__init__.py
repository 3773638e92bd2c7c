"""The array functions in which optimisations are written once, for torch and for MindSpore.

    from labsupport.arrays import xp
    weights = xp.softmax(scores, axis=-1)

Names follow the Python array API standard where it has them; what tensors of both frameworks have themselves (`@`,
`reshape`, slices) is not here. `xp` is a module, which MindSpore's graph compiler can read.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from labsupport.machine.backend import choose_backend

if TYPE_CHECKING:  # its twin has the same functions
    from labsupport.arrays import on_torch as xp
else:
    xp = import_module(f"{__name__}.on_{choose_backend()}")
