"""The machine's limits for the race: measured anew, each by the fastest library at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from labsupport.machine.roofline import Roofline, find_roofline, matmul_peak


def find_limits() -> Roofline:
    """The roofline that torch gives, and for float32 ONNX Runtime's peak where that is higher.

    On processors that are not Intel's torch's library, MKL, reaches less than half of it: no limit of the machine.
    """
    found = find_roofline(refresh=True, chosen="torch")
    peaks = found.matmul["float32"], matmul_peak(multiply) or 0.0
    return replace(found, matmul={**found.matmul, "float32": max(peaks)})


def multiply(n: int) -> Callable[[], object]:
    """The product of two n x n matrices in ONNX Runtime, as something to run."""
    from labsupport.graphs.builder import Graph
    from labsupport.graphs.session import open_session

    g = Graph("product", {})
    left, right = (g.input(name, np.float32, (n, n)) for name in ("left", "right"))
    g.output(g.op("MatMul", left, right, name="MatMul"), "product", np.float32, (n, n))
    session, ones = open_session(g.finish()), np.ones((n, n), np.float32)
    return lambda: session.run(["product"], {"left": ones, "right": ones})
