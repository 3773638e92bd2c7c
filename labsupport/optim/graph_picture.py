"""A picture of a part of a graph: boxes and arrows, drawn from top to bottom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import plots
from .graph_tools import Shape, shapes_of

if TYPE_CHECKING:
    import onnx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BUSY = {"Concat", "Slice", "Tile", "Transpose"}  # what the four passes take away


def neighbourhood(model: onnx.ModelProto, starts: Sequence[str], end: str) -> list[onnx.NodeProto]:
    """The nodes between these values and the first input of the node called `end`, in the graph's order."""
    makers = {name: node for node in model.graph.node for name in node.output}
    last = next(node for node in model.graph.node if node.name == end)
    found, waiting = {}, [last.input[0]]
    while waiting:
        value = waiting.pop()
        if value in makers and value not in starts and value not in found:
            found[value] = makers[value]
            waiting += makers[value].input
    chosen = {node.output[0] for node in found.values()}
    return [node for node in model.graph.node if node.output[0] in chosen]


def draw_neighbourhood(
    models: dict[str, onnx.ModelProto], starts: Sequence[str], end: str, **lengths: int
) -> tuple[Figure, str]:
    """The part between `starts` and `end` of each model, side by side; and the same in words, as alt text.

    Args:
        lengths: what to put for the graphs' free lengths.
    """
    drawn, axes = plots.figure(width=5.2 * len(models), height=8.5)
    axes.remove()
    told = []
    for panel, (title, model) in zip(drawn.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True):
        nodes, shapes = neighbourhood(model, starts, end), shapes_of(model, **lengths)
        draw_nodes(panel, nodes, shapes)
        panel.set(title=title)
        told.append(f"{title}: " + ", ".join(f"{node.op_type} {times(shapes[node.output[0]])}" for node in nodes))
    return drawn, "Nodes in order, each with its result's shape. " + "; ".join(told) + "."


def draw_nodes(axes: Axes, nodes: list[onnx.NodeProto], shapes: dict[str, Shape]) -> None:
    """Each node one level below the lowest that it reads; what comes from outside stands at the level above."""
    made = {node.output[0] for node in nodes}
    outside = {name for node in nodes for name in node.input if name in shapes and name not in made and "." in name}
    levels = place_in_levels(nodes, outside)
    places = spread(levels, nodes)
    kinds = {node.output[0]: node.op_type for node in nodes}
    for node in nodes:
        for name in node.input:
            if name in places:
                arrow = {"arrowstyle": "-|>", "color": "0.5", "shrinkA": 14, "shrinkB": 14}
                axes.annotate("", places[node.output[0]], places[name], arrowprops=arrow)
    for name, (x, y) in places.items():
        text = kinds.get(name, name.rpartition("layers.")[2])
        shade = plots.COLOURS[1] if text in BUSY else plots.COLOURS[5] if name in kinds else "0.9"
        box = {"boxstyle": "round", "facecolor": shade, "edgecolor": "0.4", "alpha": 0.9}
        axes.text(x, y, f"{text}\n{times(shapes[name])}", ha="center", va="center", fontsize=8, bbox=box)
    lowest, widest = min(y for _, y in places.values()), max(abs(x) for x, _ in places.values())
    axes.set(xlim=(-widest - 0.7, widest + 0.7), ylim=(lowest - 0.6, 0.6))
    axes.axis("off")


def place_in_levels(nodes: list[onnx.NodeProto], outside: set[str]) -> dict[str, int]:
    """Value -> its level from the top; a value from outside stands just above its first reader."""
    levels = {}
    for node in nodes:
        read = [levels[name] for name in node.input if name in levels]
        levels[node.output[0]] = max(read, default=0) + 1
    readers = {name: [levels[node.output[0]] for node in nodes if name in node.input] for name in outside}
    return levels | {name: min(below) - 1 for name, below in readers.items()}


def spread(levels: dict[str, int], nodes: list[onnx.NodeProto]) -> dict[str, tuple[float, float]]:
    """Value -> where it stands: side by side on its level, in the order of what reads it."""
    readers = {name: number for number, node in reversed(list(enumerate(nodes))) for name in node.input}
    by_level = defaultdict(list)
    for name in sorted(levels, key=lambda name: readers.get(name, len(nodes))):
        by_level[levels[name]].append(name)
    return {
        name: (2.2 * (column - (len(row) - 1) / 2), -float(level))
        for level, row in by_level.items()
        for column, name in enumerate(row)
    }


def times(shape: Shape) -> str:
    """(5, 8, 1, 64) -> "5x8x1x64"."""
    return "x".join("?" if dim is None else str(dim) for dim in shape)
