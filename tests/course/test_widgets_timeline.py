"""The timeline with its choices: on a page that is only read, and where a learner runs it."""

from __future__ import annotations

import pytest

from labsupport.course import widgets
from labsupport.profiling import Event, Profile


@pytest.fixture
def profile(tmp_path):
    ops = (
        Event("aten::conv1d", "convolution", 0.0, 2.0, 2.0, "cpu", "1", "first"),
        Event("aten::sort", "other", 4.0, 3.0, 3.0, "cpu", "1", "second"),
    )
    phases = (Event("first", "phase", 0.0, 3.0, 3.0, ""), Event("second", "phase", 4.0, 3.0, 3.0, ""))
    return Profile(ops, phases, 8.0, tmp_path / "trace.json")


def test_a_static_page_gets_the_picture_alone(profile, monkeypatch, capsys):
    monkeypatch.setenv("LAB_STATIC_PAGE", "1")
    widgets.explore(profile)
    assert "Plot: Timeline of" in capsys.readouterr().out


def test_the_widget_redraws_what_is_chosen(profile, monkeypatch):
    box = widgets.timeline_filter(profile)
    (phase, kind, op), picture = box.children[0].children, box.children[1]
    whole = picture.value
    assert 'alt="Timeline of' in whole
    phase.value = "second"
    assert picture.value != whole
    assert "convolution" not in picture.value.partition("src=")[0]
    kind.value, op.value = "convolution", "no such op"
    assert "none fits" in picture.value
