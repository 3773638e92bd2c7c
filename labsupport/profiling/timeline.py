"""The timeline of a profile: phases on top, below them a lane for each kind of op."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from labsupport.base import plots
from labsupport.profiling.kinds import KINDS
from labsupport.profiling.table import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = dict(zip(KINDS, (*plots.COLOURS, "#999999"), strict=True))
LABEL_WIDTH = 0.07  # a phase narrower than this part of the plot gets no label


def draw_timeline(events: Iterable[Event], phases: list[Event], title: str) -> Figure:
    """The ops that compute (not those that only call others) and the phases, at their times."""
    shown = [event for event in events if event.computes]
    lanes = sorted({event.kind for event in shown}, key=KINDS.index)
    drawn, axes = plots.figure(8.0, 1.4 + 0.32 * len(lanes))
    draw_phases(axes, phases)
    for place, lane in enumerate(lanes, 1):
        bars = [(event.start_ms, event.ms) for event in shown if event.kind == lane]
        axes.broken_barh(bars, (place - 0.4, 0.8), color=KIND_COLOURS[lane], linewidth=0)
    axes.set_yticks(range(len(lanes) + 1), ["phase", *lanes])
    axes.invert_yaxis()
    axes.set(xlabel="time (ms)", title=title)
    return drawn


def draw_phases(axes: Axes, phases: list[Event]) -> None:
    """Bars in two shades in turn; neighbours of one name share a label, if there is room for it."""
    if not phases:
        return
    ordered = sorted(phases, key=lambda phase: phase.start_ms)
    width = max(p.end_ms for p in ordered) - ordered[0].start_ms
    for number, phase in enumerate(ordered):
        axes.broken_barh([(phase.start_ms, phase.ms)], (-0.4, 0.8), color=("#BBBBBB", "#DDDDDD")[number % 2])
    for name, group in itertools.groupby(ordered, key=lambda phase: phase.name):
        same = list(group)
        start, end = same[0].start_ms, same[-1].end_ms
        if end - start >= LABEL_WIDTH * width:
            axes.text((start + end) / 2, 0, name, ha="center", va="center", fontsize="small")
