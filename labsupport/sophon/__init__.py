"""SOPHON's compiler TPU-MLIR, run for real and without its chip.

    toolchain = sophon.make_toolchain(print)
    compiled = sophon.compile_graph(model, inputs, toolchain)
    sophon.read_profile(compiled.profile).table()

Every cycle in here is the compiler's estimate for a BM1684X; what runs the program is the compiler's simulator of it.
"""

from __future__ import annotations

from labsupport.sophon.compiler import PASSES, STAGES, Agreement, Compiled, compile_graph
from labsupport.sophon.gantt import draw_gantt
from labsupport.sophon.readers import (
    ESTIMATE,
    Command,
    CycleTable,
    Grouping,
    OpCycles,
    Profile,
    count_ops,
    count_stages,
    read_grouping,
    read_places,
    read_profile,
)
from labsupport.sophon.rewrites import new_rows_only
from labsupport.sophon.toolchain import Toolchain, find_python310, find_toolchain, make_toolchain

__all__ = [
    "ESTIMATE",
    "PASSES",
    "STAGES",
    "Agreement",
    "Command",
    "Compiled",
    "CycleTable",
    "Grouping",
    "OpCycles",
    "Profile",
    "Toolchain",
    "compile_graph",
    "count_ops",
    "count_stages",
    "draw_gantt",
    "find_python310",
    "find_toolchain",
    "make_toolchain",
    "new_rows_only",
    "read_grouping",
    "read_places",
    "read_profile",
]
