"""The two engines over time: a lane for each, and the label that they are estimates."""

from __future__ import annotations

from pathlib import Path

from labsupport.base import plots
from labsupport.sophon.gantt import draw_gantt
from labsupport.sophon.readers import ESTIMATE, read_profile

SAMPLES = Path(__file__).parents[1] / "data" / "sophon"
NAMES = ("default", "without_affine")


def test_the_plot_has_a_lane_for_each_engine():
    drawn = draw_gantt({name: read_profile(SAMPLES / f"{name}.profile.txt") for name in NAMES})
    (axes,) = drawn.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"{n}: {e}" for n in NAMES for e in ("TIU", "GDMA")]
    assert ESTIMATE in axes.get_xlabel()
    assert plots.to_png(drawn)[:4] == b"\x89PNG"
