"""The two engines of the chip at work, one above the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from labsupport.base import plots
from labsupport.sophon.readers import CYCLES_PER_MS, ESTIMATE, Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "MatMul": plots.COLOURS[0],
    "Load, Store": plots.COLOURS[5],
    "Tile": plots.COLOURS[3],
    "Permute, Slice, Concat": plots.COLOURS[4],
    "Softmax": plots.COLOURS[1],
    "other": "#999999",
}


def draw_gantt(profiles: Mapping[str, Profile]) -> Figure:
    """For each profile a lane of TIU and one of GDMA, all on one scale of time, which is labelled as an estimate."""
    drawn, axes = plots.figure(8.4, 1.2 + 0.75 * len(profiles))
    lanes = [(name, engine) for name in profiles for engine in ("TIU", "GDMA")]
    for number, (name, engine) in enumerate(lanes):
        for kind, colour in COLOURS.items():
            commands = [c for c in profiles[name].commands if c.engine == engine and kind_of(c.op) == kind]
            spans = [(c.start / CYCLES_PER_MS, c.cycles / CYCLES_PER_MS) for c in commands]
            axes.broken_barh(spans, (number - 0.4, 0.8), color=colour, linewidth=0)
    axes.set_yticks(range(len(lanes)), [f"{name}: {engine}" for name, engine in lanes])
    axes.invert_yaxis()
    axes.set(xlabel=f"ms ({ESTIMATE})", title="Compute (TIU) and transfers (GDMA)")
    handles = [axes.scatter([], [], marker="s", color=colour, label=kind) for kind, colour in COLOURS.items()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    return drawn


def kind_of(op: str) -> str:
    """The key of `COLOURS` that this op falls under."""
    return next((kind for kind in COLOURS if op in kind.split(", ")), "other")
