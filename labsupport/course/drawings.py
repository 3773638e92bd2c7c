"""Drawings for the notebooks: how data flow through a model, as boxes and arrows, each with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labsupport.base import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HALF_WIDTH, HALF_HEIGHT = 0.36, 0.22  # of a box, where 1 lies between the middles of two
ARC_HEIGHT = 0.3  # above or below the boxes
ASIDE = 0.06  # of a box's middle
INCHES = 1.42  # of a step: a row of six is as wide as a notebook's page
ARROW = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0}


def chain(
    steps: Sequence[tuple[str, str]],
    title: str,
    over: Mapping[tuple[int, int], str] | None = None,
    into: Mapping[int, str] | None = None,
    back: Mapping[tuple[int, int], str] | None = None,
) -> tuple[Figure, str]:
    """Boxes from left to right with arrows between them, and the drawing's alt text: for `plots.show(*chain(...))`.

    Args:
        steps: (name, what leaves it, such as a shape), in order.
        over: (from, to) -> label of an arrow above the boxes, as a residual path; numbers count `steps` from 0.
        into: step -> what else comes into it, from above.
        back: (from, to) -> label of an arrow below the boxes, as a loop.
    """
    over, into, back = over or {}, into or {}, back or {}
    drawn, axes = plots.figure(INCHES * len(steps), 1.35 + 0.45 * bool(over or into) + 0.45 * bool(back))
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set(xlim=(-0.5, len(steps) - 0.5), ylim=(-0.45 - 0.35 * bool(back), 0.3 + 0.45 * bool(over or into)))
    for number, (name, result) in enumerate(steps):
        draw_box(axes, number, name, result)
        if number:
            axes.annotate("", (number - HALF_WIDTH, 0), (number - 1 + HALF_WIDTH, 0), arrowprops=ARROW)
    for number, name in into.items():
        axes.annotate(
            name, (number, HALF_HEIGHT), (number, 0.55), arrowprops=ARROW, ha="center", va="bottom", fontsize=9
        )
    for side, arcs in ((1, over), (-1, back)):
        for (start, end), label in arcs.items():
            draw_arc(axes, start, end, label, side)
    return drawn, describe_chain(steps, title, over, into, back)


def draw_box(axes: Axes, number: int, name: str, result: str) -> None:
    """A box with rounded corners, its name in it, and what leaves it below."""
    from matplotlib.patches import FancyBboxPatch

    corner = (number - HALF_WIDTH, -HALF_HEIGHT)
    box = FancyBboxPatch(
        corner, 2 * HALF_WIDTH, 2 * HALF_HEIGHT, boxstyle="round,pad=0,rounding_size=0.05",
        facecolor="#E8F1F8", edgecolor=plots.COLOURS[0],
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(number, 0, name, ha="center", va="center", fontsize=9.5)
    axes.text(number, -HALF_HEIGHT - 0.05, result, ha="center", va="top", fontsize=8.5, color="0.25")


def draw_arc(axes: Axes, start: int, end: int, label: str, side: int) -> None:
    """A line with corners from one box to another, above (side 1) or below (-1) those between them."""
    edge = HALF_HEIGHT if side > 0 else -HALF_HEIGHT - 0.2
    level = edge + side * ARC_HEIGHT * 0.7
    leaves, enters = start + ASIDE, end - ASIDE if end > start else end + ASIDE  # two arcs may meet at one box
    axes.plot([leaves, leaves, enters], [edge, level, level], color="0.35", linewidth=1)
    axes.annotate("", (enters, edge), (enters, level), arrowprops=ARROW)
    below = "bottom" if side > 0 else "top"
    axes.text((start + end) / 2, level + side * 0.03, label, ha="center", va=below, fontsize=9)


def describe_chain(
    steps: Sequence[tuple[str, str]],
    title: str,
    over: Mapping[tuple[int, int], str],
    into: Mapping[int, str],
    back: Mapping[tuple[int, int], str],
) -> str:
    """The same in words, for whoever cannot see it."""
    names = [in_one_line(name) for name, _ in steps]
    boxes = ", then ".join(f"{name} {step[1]}".strip() for name, step in zip(names, steps, strict=True))
    arrows = [f"{in_one_line(name)} also goes into {names[number]}" for number, name in into.items()]
    arrows += [f"from {names[start]} to {names[end]}: {label}" for (start, end), label in {**over, **back}.items()]
    return ". ".join([title, f"Boxes with what leaves each: {boxes}", *arrows]) + "."


def in_one_line(name: str) -> str:
    """A name without its line breaks, which may cut a word with a hyphen in two."""
    return name.replace("-\n", "-").replace("\n", " ")
