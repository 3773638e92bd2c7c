"""Plots draw what they are given."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from labsupport.base import plots


def test_stacked_bars_end_where_their_parts_do():
    axes = plots.stacked_bars({"a": {"x": 1, "y": 2}, "b": {"y": 4}}, "GB", "title").axes[0]
    ends = sorted(bar.get_x() + bar.get_width() for bar in axes.patches)
    assert ends == [0, 1, 3, 4]


def test_the_same_figure_gives_the_same_bytes():
    first, second = (plots.to_svg(plots.bars({"a": 1.0, "b": 2.0}, "s", "T")) for _ in range(2))
    assert first == second
    assert b"matplotlib.org" not in first


def test_a_png_looks_as_the_figure_does():
    figure = plots.bars({"a": 1.0, "b": 2.0}, "s", "T", {"a": 0.4})
    plain = io.BytesIO()
    figure.savefig(plain, format="png")
    before, after = (
        np.asarray(Image.open(each).convert("RGB"), int) for each in (plain, io.BytesIO(plots.to_png(figure)))
    )
    assert before.shape == after.shape
    assert np.abs(before - after).max() <= 8
    assert len(plots.to_png(figure)) < len(plain.getvalue())


def test_bars_have_their_spread_and_the_first_is_on_top():
    axes = plots.bars({"a": 1.0, "b": 2.0}, "s", "T", {"a": 0.4}).axes[0]
    low, high = axes.containers[0][2][0].get_segments()[0][:, 0]
    assert (low, high) == (0.8, 1.2)
    assert axes.yaxis_inverted()


def test_panels_share_the_names_and_each_has_its_unit():
    drawn = plots.panels({"s": {"a": 1.0, "b": 2.0}, "MB": {"b": 4.0, "a": 3.0}}, "T")
    assert [axes.get_xlabel() for axes in drawn.axes] == ["s", "MB"]
    assert [[bar.get_width() for bar in axes.patches] for axes in drawn.axes] == [[1.0, 2.0], [3.0, 4.0]]
    assert all(axes.yaxis_inverted() for axes in drawn.axes)


def test_the_line_joins_what_no_other_beats():
    points = {"small": (1e6, 1.0), "large": (4e6, 3.0), "beaten": (4e6, 2.0), "slower": (2e6, 0.5)}
    front = plots.trade(points, "samples/s", "T").axes[0].lines[-1]
    assert front.get_xydata().tolist() == [[1.0, 1.0], [4.0, 3.0]]


@pytest.mark.parametrize(
    "name",
    ["$\\frac{$", "$", "a\x00\x1b[31m\ud800", "x" * 10_000, "", "_hidden", "语音"],
    ids=["formula", "dollar", "controls", "long", "empty", "hidden", "other script"],
)
def test_any_name_can_be_drawn(name):
    for drawn in (
        plots.bars({name: 1.0, "b": 2.0}, name, name, {name: 0.1}),
        plots.stacked_bars({name: {name: 1}}, name, name),
        plots.trade({name: (1e6, 1.0)}, name, name),
        plots.panels({name: {name: 1.0}, "s": {name: 2.0}}, name),
    ):
        assert plots.to_svg(drawn).startswith(b"<?xml")


def test_names_that_are_cut_have_a_bar_each():
    axes = plots.bars({"x" * 200: 1.0, "x" * 201: 2.0}, "s", "T").axes[0]
    assert [bar.get_y() for bar in axes.patches] == [-0.4, 0.6]


def test_a_picture_needs_alt_text_and_it_is_escaped():
    with pytest.raises(ValueError, match="alt text"):
        plots.image_tag(b"", " ", "image/png")
    assert 'alt="&quot;a&quot; &lt; b"' in plots.image_tag(b"", '"a" < b', "image/png")


def test_large_numbers_in_a_plot_have_no_exponent():
    drawn = plots.bars({"whole": 72_593_920, "half": 36_296_960}, "parameters", "Whisper base")
    drawn.draw_without_rendering()
    axes = drawn.axes[0]
    assert [text.get_text() for text in axes.texts] == [" 72.6 million", " 36.3 million"]
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert "50 million" in [tick.get_text() for tick in axes.get_xticklabels()]
