"""A pytest plugin for notebooks: how tests that run side by side share a kernel, and how a kernel is started.

A notebook under test is held to its results, not to its times: nothing in it is timed more often than twice.

A kernel gets the numbers of its ports a second before it opens them. On a busy machine, where several start at once,
one may find a port taken, and dies. Nothing of its notebook has run by then, so it is started again. A kernel that dies
three times is a fault and fails the notebook.
"""

from __future__ import annotations

import os
from typing import Any

from nbval import kernel
from xdist.scheduler import LoadScopeScheduling

STARTS = 3
FEW_RUNS = {"LAB_MOST_RUNS": "2"}  # see `timing.compare`
ONE_BY_ONE = "test_notebooks.py"  # each of its tests runs a whole notebook, in a kernel of its own
start_once = kernel.start_new_kernel


class KernelScheduling(LoadScopeScheduling):
    """xdist's `--dist loadfile`, but each test of the file ONE_BY_ONE may go to another process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return nodeid if path.endswith(ONE_BY_ONE) else path


def pytest_xdist_make_scheduler(config: Any, log: Any) -> KernelScheduling:
    return KernelScheduling(config, log)


def start(*args, **options):
    """nbval's `start_new_kernel`, which logs each failure, up to three times.

    Raises:
        RuntimeError: the last start failed, too.
    """
    options["env"] = {**os.environ, **FEW_RUNS}
    for _ in range(STARTS - 1):
        try:
            return start_once(*args, **options)
        except RuntimeError:
            continue
    return start_once(*args, **options)


kernel.start_new_kernel = start
