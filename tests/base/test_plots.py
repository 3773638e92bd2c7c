"""Plots draw what they are given."""

from __future__ import annotations

from labsupport.base import plots


def test_stacked_bars_end_where_their_parts_do():
    axes = plots.stacked_bars({"a": {"x": 1, "y": 2}, "b": {"y": 4}}, "GB", "title").axes[0]
    ends = sorted(bar.get_x() + bar.get_width() for bar in axes.patches)
    assert ends == [0, 1, 3, 4]
