"""The timeline's lanes, read off its axes."""

from __future__ import annotations

import numpy as np
import pytest
from small_work import two_phases

from labsupport import profiling
from labsupport.base import plots
from labsupport.profiling.table import Event
from labsupport.profiling.timeline import busy_parts


def lanes_of(figure):
    """Of each lane, the milliseconds that its picture shows as busy; and the number of phases."""
    axes = figure.axes[0]
    phase, *lanes = [label.get_text() for label in axes.get_yticklabels()]
    steps = [patch.get_data() for patch in axes.patches]
    return {phase: len(axes.collections)} | {
        lane: float(((step.baseline - step.values) / 0.8 * np.diff(step.edges)).sum())
        for lane, step in zip(lanes, steps, strict=True)
    }


def test_the_timeline_shows_every_op_that_computes_in_its_kinds_lane(tmp_path):
    profile = profiling.profile(two_phases, tmp_path)
    shown = lanes_of(profile.timeline())
    assert shown.pop("phase") == 2
    drawn = [event for event in profile.events if event.computes]
    assert set(shown) == {event.kind for event in drawn}
    for kind, milliseconds in shown.items():
        # At most: a caller and the callee in it, both of one kind, may overlap.
        assert 0 < milliseconds <= sum(event.ms for event in drawn if event.kind == kind) + 1e-6
    assert plots.to_png(profile.timeline())[:4] == b"\x89PNG"


def test_the_busy_part_of_a_stretch():
    events = [Event("a", "other", 1.0, 2.0, 2.0, "cpu"), Event("b", "other", 3.5, 0.25, 0.25, "cpu")]
    assert busy_parts(events, np.array([0.0, 2.0, 3.0, 4.0, 8.0])).tolist() == [0.5, 1.0, 0.25, 0.0]


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
    assert lanes_of(profile.timeline()) == pytest.approx({"phase": 2, "convolution": 2.0, "softmax": 1.0, "other": 3.0})
    assert lanes_of(profile.timeline("first")) == pytest.approx({"phase": 1, "convolution": 2.0, "softmax": 1.0})
    assert lanes_of(profile.timeline("second")) == pytest.approx({"phase": 1, "other": 3.0})
    assert lanes_of(profile.timeline(kind="softmax")) == pytest.approx({"phase": 2, "softmax": 1.0})
    assert lanes_of(profile.timeline(op="SORT")) == pytest.approx({"phase": 2, "other": 3.0})
