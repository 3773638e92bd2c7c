"""A picture of a part of a graph: boxes and arrows, drawn from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from labsupport.base import plots
from labsupport.graphs.analysis import Shape, shapes_of

if TYPE_CHECKING:
    import onnx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COPY_OPS = {"Concat", "Slice", "Tile", "Transpose"}  # what the four passes remove
MIN_NUMBERS = 10_000  # how many of them a copy must move to be drawn in another colour
SPACING = 2.1  # between the middles of two boxes
HALF_BOX = 0.34  # of a box's height, in levels
LEVEL_HEIGHT, FONT_SIZE = 0.52, 9.5  # inches and points: a picture as wide as a notebook stays readable


def neighbourhood(model: onnx.ModelProto, starts: Sequence[str], end: str) -> list[onnx.NodeProto]:
    """The nodes between these values and the first input of the node called `end`, in the graph's order."""
    makers = {name: node for node in model.graph.node for name in node.output}
    last = next(node for node in model.graph.node if node.name == end)
    found, waiting = set(), [last.input[0]]
    while waiting:
        value = waiting.pop()
        if value in makers and value not in starts and value not in found:
            found.add(value)
            waiting += makers[value].input
    return [node for node in model.graph.node if found.intersection(node.output)]


def draw_neighbourhood(
    models: dict[str, onnx.ModelProto], starts: Sequence[str], end: str, **lengths: int
) -> tuple[Figure, str]:
    """The part between `starts` and `end` of each model, one below the other; and its alt text.

    `lengths`: see `shapes_of`.
    """
    parts = {title: neighbourhood(model, starts, end) for title, model in models.items()}
    levels = {
        title: assign_levels(nodes, outside_of(nodes, models[title].graph, starts)) for title, nodes in parts.items()
    }
    heights = [LEVEL_HEIGHT * (max(each.values()) - min(each.values()) + 2) for each in levels.values()]
    drawn, axes = plots.figure(width=9.0, height=sum(heights))
    axes.remove()
    drawn.set_dpi(90)  # four such pictures go into one notebook
    panels = drawn.subplots(len(models), 1, squeeze=False, height_ratios=heights)[:, 0]
    texts = []
    for panel, (title, nodes) in zip(panels, parts.items(), strict=True):
        shapes = shapes_of(models[title], **lengths)
        draw_nodes(panel, nodes, levels[title], shapes)
        panel.set_title(title, loc="left", fontweight="bold")
        texts.append(f"{title}: " + ", ".join(f"{node.op_type} {times(shapes[node.output[0]])}" for node in nodes))
    return drawn, "Nodes in order, each with its result's shape. " + "; ".join(texts) + "."


def outside_of(nodes: list[onnx.NodeProto], graph: onnx.GraphProto, starts: Sequence[str]) -> set[str]:
    """Of what comes into this part, the values that get a box: those of `starts`, and inputs, but `position`."""
    read = {name for node in nodes for name in node.input}
    return read & {*starts, *(value.name for value in graph.input)} - {"position"}


def draw_nodes(axes: Axes, nodes: list[onnx.NodeProto], levels: dict[str, int], shapes: dict[str, Shape]) -> None:
    """Boxes at their levels, and an arrow from each to those that read it."""
    centres = spread(levels, nodes)
    kinds = {node.output[0]: node.op_type for node in nodes}
    for node in nodes:
        for name in node.input:
            if name in centres:
                (x, y), (end_x, end_y) = centres[name], centres[node.output[0]]
                arrow = {"arrowstyle": "-|>", "color": "0.5", "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (end_x, end_y + HALF_BOX), (x, y - HALF_BOX), arrowprops=arrow)
    for name, (x, y) in centres.items():
        text = kinds.get(name, label(name))
        copies = text in COPY_OPS and math.prod(dim for dim in shapes[name] if isinstance(dim, int)) >= MIN_NUMBERS
        colour = plots.COLOURS[1] if copies else plots.COLOURS[5] if name in kinds else "0.9"
        box = {"boxstyle": "round", "facecolor": colour, "edgecolor": "0.4", "alpha": 0.9}
        axes.text(x, y, f"{text}\n{times(shapes[name])}", ha="center", va="center", fontsize=FONT_SIZE, bbox=box)
    columns, rows = zip(*centres.values(), strict=True)
    axes.set(xlim=(min(columns) - 1, max(columns) + 1), ylim=(min(rows) - 0.5, max(rows) + 0.5))
    axes.axis("off")


def assign_levels(nodes: list[onnx.NodeProto], outside: set[str]) -> dict[str, int]:
    """Value -> its level, the last node's being 0: each stands just above the first that reads it."""
    levels: dict[str, int] = {}
    for name in [*(node.output[0] for node in reversed(nodes)), *sorted(outside)]:
        levels[name] = min((levels[node.output[0]] for node in nodes if name in node.input), default=1) - 1
    return levels


def spread(levels: dict[str, int], nodes: list[onnx.NodeProto]) -> dict[str, tuple[float, float]]:
    """Value -> the centre of its box: above what reads it, at least `SPACING` from its neighbours."""
    readers = {name: [node.output[0] for node in nodes if name in node.input] for name in levels}
    centres: dict[str, tuple[float, float]] = {}
    for level in sorted(set(levels.values()), reverse=True):
        row = [name for name in levels if levels[name] == level]
        wanted = {name: fmean([centres[reader][0] for reader in readers[name]] or [0]) for name in row}
        x, columns = float("-inf"), {}
        for name in sorted(row, key=wanted.__getitem__):
            columns[name] = x = max(wanted[name], x + SPACING)
        shift = fmean(wanted[name] - columns[name] for name in row)
        centres |= {name: (column + shift, -float(level)) for name, column in columns.items()}
    return centres


def label(name: str) -> str:
    """A value from outside by its short name: an input's own, or the linear layer's that gave it."""
    return name.partition("/")[0].rpartition(".")[2] if "/" in name else name


def times(shape: Shape) -> str:
    """(5, 8, 1, 64) -> "5x8x1x64"."""
    return "x".join("?" if dim is None else str(dim) for dim in shape)
