"""SOPHON's compiler TPU-MLIR, run for real and without its chip.

    toolchain = sophon.make_toolchain(print)
    compiled = sophon.compile_graph(model, inputs, toolchain)
    sophon.read_profile(compiled.profile).table()

All cycles are the compiler's estimate for a BM1684X; the compiler's simulator of that chip runs the program.
"""

from __future__ import annotations

from labsupport.sophon.compiler import PASSES, compile_graph
from labsupport.sophon.gantt import draw_gantt
from labsupport.sophon.readers import ESTIMATE, count_stages, read_grouping, read_profile
from labsupport.sophon.rewrites import new_rows_only
from labsupport.sophon.toolchain import make_toolchain

__all__ = [
    "ESTIMATE",
    "PASSES",
    "compile_graph",
    "count_stages",
    "draw_gantt",
    "make_toolchain",
    "new_rows_only",
    "read_grouping",
    "read_profile",
]
