"""The timeline's bars, counted in its axes."""

from __future__ import annotations

import math

from small_work import two_phases

from labsupport import profiling
from labsupport.base import plots
from labsupport.profiling.table import Event


def bars_by_lane(figure):
    axes = figure.axes[0]
    lanes = [label.get_text() for label in axes.get_yticklabels()]
    counts = dict.fromkeys(lanes, 0)
    for collection in axes.collections:
        for path in collection.get_paths():
            counts[lanes[math.floor(path.get_extents().y0 + 0.5)]] += 1
    return counts


def test_the_timeline_draws_every_op_that_computes_in_its_kinds_lane(tmp_path):
    profile = profiling.profile(two_phases, tmp_path)
    counts = bars_by_lane(profile.timeline())
    assert counts.pop("phase") == 2
    drawn = [event for event in profile.events if event.computes]
    assert counts == {kind: sum(event.kind == kind for event in drawn) for kind in {event.kind for event in drawn}}
    assert plots.to_png(profile.timeline())[:4] == b"\x89PNG"


def test_the_timeline_shows_what_is_chosen(tmp_path):
    # Times by hand: in a measured profile a stall inside of `sort` can make it an op that only calls others.
    ops = (
        Event("aten::conv1d", "convolution", 0.0, 2.0, 2.0, "cpu", "1", "first"),
        Event("aten::softmax", "softmax", 2.0, 1.0, 1.0, "cpu", "1", "first"),
        Event("aten::sort", "other", 4.0, 3.0, 2.0, "cpu", "1", "second"),
        Event("aten::sort_caller", "copy and shape", 4.0, 3.0, 1.0, "cpu", "1", "second"),
    )
    phases = (Event("first", "phase", 0.0, 3.0, 3.0, "phase"), Event("second", "phase", 4.0, 3.0, 3.0, "phase"))
    profile = profiling.Profile(ops, phases, 8.0, tmp_path / "trace.json")
    assert bars_by_lane(profile.timeline()) == {"phase": 2, "convolution": 1, "softmax": 1, "other": 1}
    assert bars_by_lane(profile.timeline("first")) == {"phase": 1, "convolution": 1, "softmax": 1}
    assert bars_by_lane(profile.timeline("second")) == {"phase": 1, "other": 1}
    assert bars_by_lane(profile.timeline(kind="softmax")) == {"phase": 2, "softmax": 1}
    assert bars_by_lane(profile.timeline(op="SORT")) == {"phase": 2, "other": 1}
