"""Drawings: every box, arrow and label is in the picture, inside its edges, and in the alt text."""

from __future__ import annotations

import random

import pytest

from labsupport.base import plots
from labsupport.course import drawings

SEED = random.randrange(10**6)


def draw_chain(rng):
    """Steps with a residual path over some of them, something that comes in, and a loop."""
    count = rng.randint(3, 8)
    steps = [(f"step {i}", rng.choice(["", f"({i}, 384)"])) for i in range(count)]
    start, end = sorted(rng.sample(range(count), 2))
    return steps, {(start, end): "as it was"}, {rng.randrange(count): "the sound"}, {(end, start): "again"}


@pytest.mark.parametrize("number", range(10))
def test_all_of_a_chain_is_drawn_and_told(number):
    steps, over, into, back = draw_chain(random.Random(SEED + number))
    drawn, alt = drawings.chain(steps, "A chain", over, into, back)
    (axes,) = drawn.axes
    shown = [text.get_text() for text in axes.texts]
    assert len(axes.patches) == len(steps), SEED
    for text in (*(part for step in steps for part in step if part), *over.values(), *into.values(), *back.values()):
        assert text in shown
        assert text in alt
    (start, end), place = next(iter(over)), next(iter(into))
    assert f"from {steps[start][0]} to {steps[end][0]}: as it was" in alt
    assert f"the sound also goes into {steps[place][0]}" in alt


@pytest.mark.parametrize("number", range(10))
def test_nothing_lies_outside_the_picture_nor_on_another_text(number):
    steps, _, into, back = draw_chain(random.Random(SEED + number))
    drawn, _ = drawings.chain(steps, "A chain", into=into, back=back)
    plots.to_png(drawn)  # places its texts
    texts = [text.get_window_extent() for text in drawn.axes[0].texts if text.get_text()]
    for box in texts:
        assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1, SEED
        assert drawn.bbox.y0 <= box.y0 < box.y1 <= drawn.bbox.y1, SEED
        assert sum(box.overlaps(other) for other in texts) == 1, SEED


def test_a_name_of_two_lines_is_one_in_the_alt_text():
    alt = drawings.chain([("feed-\nforward", "(5,)"), ("add", "")], "A layer")[1]
    assert alt == "A layer. Boxes with what leaves each: feed-forward (5,), then add."
