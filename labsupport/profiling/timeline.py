"""The timeline of a profile: phases on top, below them a lane for each kind of op.

A lane is as high as the part of the time in which such an op runs: calls shorter than a dot of the picture count, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base import plots
from labsupport.profiling.kinds import KINDS
from labsupport.profiling.table import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = dict(zip(KINDS, (*plots.COLOURS, "#999999"), strict=True))
LABEL_WIDTH = 0.07  # a phase narrower than this part of the plot gets no label
STRETCHES = 240  # into which the time is divided; each is a few dots wide


def draw_timeline(events: Iterable[Event], phases: list[Event], title: str) -> Figure:
    """The ops that compute (not those that only call others) and the phases, at their times; each kind's sum beside."""
    events = list(events)
    shown = [event for event in events if event.computes]
    lanes = sorted({event.kind for event in shown}, key=KINDS.index)
    drawn, axes = plots.figure(8.4, 1.7 + 0.46 * len(lanes))
    draw_phases(axes, phases)
    ends = [(event.start_ms, event.end_ms) for event in [*shown, *phases]]
    edges = np.linspace(min((a for a, _ in ends), default=0.0), max((b for _, b in ends), default=1.0), STRETCHES + 1)
    for place, lane in enumerate(lanes, 1):
        busy = busy_parts([event for event in shown if event.kind == lane], edges)
        axes.stairs(place + 0.4 - 0.8 * busy, edges, baseline=place + 0.4, fill=True, color=KIND_COLOURS[lane])
        axes.axhline(place + 0.4, color="0.8", linewidth=0.8, zorder=0)
        total = sum(event.self_ms for event in events if event.kind == lane)
        axes.text(1.01, place, f"{total:,.0f} ms", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(lanes) + 1), ["phase", *lanes])
    axes.invert_yaxis()
    axes.set(xlabel="time (ms)", ylabel="full height: it runs all the time", title=title)
    return drawn


def busy_parts(events: Iterable[Event], edges: np.ndarray) -> np.ndarray:
    """The part of each stretch between two edges (milliseconds) in which an event ran, 0 to 1: (stretches,) float64."""
    covered = np.zeros(len(edges))  # milliseconds before each edge in which one ran
    for event in events:
        covered += np.clip(edges - event.start_ms, 0, event.ms)
    return np.minimum(np.diff(covered) / np.diff(edges), 1.0)


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
