"""Profiles: phases, the part of the time in ops, the trace, a labelled model, the planted slow op."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_whisper import SMALL
from small_work import multiply_and_activate, two_phases

from labsupport import profiling, whisper
from labsupport.base.errors import TraceError
from labsupport.course import exercises


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return profiling.profile(two_phases, tmp_path_factory.mktemp("profile"))


def test_busy_fraction_counts_nested_and_overlapping_ops_once(profile):
    ops = [(0, 4), (1, 1), (3, 3), (8, 2)]  # start, length: 0 to 6 and 8 to 10 are covered
    events = tuple(replace(profile.events[0], start_ms=float(a), ms=float(b)) for a, b in ops)
    assert replace(profile, events=events, wall_ms=16.0).busy_fraction() == 0.5
    assert 0 < profile.busy_fraction() <= 1


def test_ops_belong_to_the_phase_in_which_they_began(profile):
    assert [phase.name for phase in profile.phases] == ["first", "second"]
    assert {event.phase for event in profile.events} == {"first", "second"}
    first, second = profile.table("first"), profile.table("second")
    assert "aten::addmm" in {row.name for row in first} or "aten::mm" in {row.name for row in first}
    assert "aten::sort" in {row.name for row in second} - {row.name for row in first}
    assert len(profile.events) == sum(row.calls for table in (first, second) for row in table)
    assert first.share("convolution") > 0 == second.share("convolution")


def test_an_inner_phase_takes_its_ops_and_its_time_from_the_outer(tmp_path):
    def work():
        with profiling.phase("outer"):
            torch.ones(4).exp()
            with profiling.phase("inner"):
                torch.ones(500, 500).sort()
            torch.ones(4).exp()

    profile = profiling.profile(work, tmp_path)
    assert "aten::sort" in {row.name for row in profile.table("inner")}
    assert "aten::sort" not in {row.name for row in profile.table("outer")}
    assert profile.table("outer")["aten::exp"].calls == 2
    outer, inner = (next(p for p in profile.phases if p.name == name) for name in ("outer", "inner"))
    assert profile.by_phase()["outer"].total_ms == pytest.approx(outer.ms - inner.ms, abs=1e-3)
    assert sum(row.share for row in profile.by_phase()) == pytest.approx(1)


def test_the_trace_is_json_with_what_viewers_need(profile):
    events = json.loads(profile.trace.read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= set(event) for event in complete)
    assert {"first", "second", "aten::sort"} <= {event["name"] for event in complete}


def test_a_profile_without_a_folder_lies_with_the_learners_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    profile = profiling.profile(multiply_and_activate)
    assert profile.trace.is_relative_to(tmp_path)
    assert profiling.read_trace(profile.trace)[0] == list(profile.events)


def test_work_without_ops_is_an_error(tmp_path):
    with pytest.raises(TraceError, match="no op"):
        profiling.profile(lambda: sum(range(1000)), tmp_path)


@pytest.fixture
def small_model():
    return whisper.load_model(SMALL, "cpu")


def run_model(model, steps=3):
    encoder_out = model.encode(np.zeros((1, SMALL.config.mels, 2 * SMALL.config.audio_positions), np.float32))
    cache = model.new_cache()
    model.project_cross_kv(encoder_out, cache)
    logits = [model.prefill(np.array([[5]]), cache)[:, -1]]
    return np.stack(logits + [model.decode_step(np.array([6]), cache) for _ in range(steps - 1)])


def test_a_labelled_model_computes_the_same_in_named_phases(small_model, tmp_path):
    labelled = profiling.LabelledModel(small_model)
    profile = profiling.profile(lambda: run_model(labelled), tmp_path)
    calls = {row.name: row.calls for row in profile.by_phase()}
    assert calls == {"encoder": 1, "cross kv": 1, "prefill": 1, "decode step": 2}
    assert profile.table("encoder")["aten::conv1d"].calls == 2
    assert all("conv" not in row.name for row in profile.table("decode step"))
    np.testing.assert_array_equal(run_model(labelled), run_model(small_model))


def test_waste_planted_in_the_model_is_found_as_in_the_exercise(small_model, tmp_path, monkeypatch):
    """The exercise adds up times; here each call counts 1, for times on a shared machine may say anything."""

    def wasteful(x, weight, bias, stride, padding):
        total = x.sum()
        for _ in range(100):
            total.cosh()
        return torch.nn.functional.conv1d(x, weight, bias, stride, padding)

    def calls():
        profile = profiling.profile(lambda: run_model(small_model), tmp_path)
        return [(row.name, float(row.calls)) for row in profile.table()]

    before = calls()
    monkeypatch.setattr(small_model.encoder, "conv1d", wasteful)
    after = calls()
    assert "aten::cosh" not in dict(before)
    assert dict(after)["aten::cosh"] == 200
    assert exercises.find("4.4").solution(before, after) == "aten::cosh"
