"""The op table against torch's own sums, phases, the planted slow op, the plots."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labsupport import profiling
from labsupport.base import plots
from labsupport.base.errors import TraceError
from labsupport.checkpoints.config import Config
from labsupport.course import exercises, widgets
from labsupport.profiling.table import Event, make_table
from labsupport.profiling.trace import Span, own_times
from labsupport.whisper import torch_model


def multiply_and_activate(n=64):
    x = torch.ones(n, n)
    for _ in range(5):
        x = torch.softmax(torch.nn.functional.linear(x, x), -1)
    return torch.nn.functional.conv1d(x[None], torch.ones(8, n, 3), padding=1)


@pytest.fixture
def profile(tmp_path):
    def work():
        with profiling.phase("first"):
            multiply_and_activate()
        with profiling.phase("second"):
            torch.ones(300, 300).sort()

    return profiling.profile(work, tmp_path)


# --- the table --------------------------------------------------------------------------------------------------------


def test_own_times_are_torchs_own(tmp_path):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
        multiply_and_activate()
    theirs.export_chrome_trace(str(tmp_path / "trace.json"))
    table = profiling.table_of(profiling.read_trace(tmp_path / "trace.json")[0])
    expected = {op.key: (op.count, op.self_cpu_time_total / 1e3) for op in theirs.key_averages()}
    assert {row.name: row.calls for row in table} == {name: count for name, (count, _) in expected.items()}
    for row in table:
        assert row.total_ms == pytest.approx(expected[row.name][1], rel=0.01, abs=0.002)


def test_rows_are_sums_of_the_calls(profile):
    table = profile.table()
    for row in table:
        own = [event.self_ms for event in profile.events if event.name == row.name]
        assert (row.calls, row.total_ms) == (len(own), pytest.approx(sum(own)))
        assert (row.max_ms, row.mean_ms) == (max(own), pytest.approx(np.mean(own)))


def test_shares_add_up_and_ops_fill_no_more_than_the_wall_time(profile):
    table = profile.table()
    assert sum(row.share for row in table) == pytest.approx(1)
    assert sum(row.share for row in table.by_kind()) == pytest.approx(1)
    assert sum(row.total_ms for row in table) <= profile.wall_ms
    assert 0 < profile.busy() <= 1


def test_busy_counts_nested_and_overlapping_ops_once(profile):
    ops = [(0, 4), (1, 1), (3, 3), (8, 2)]  # start, length: 0 to 6 and 8 to 10 are covered
    events = tuple(replace(profile.events[0], start_ms=float(a), ms=float(b)) for a, b in ops)
    assert replace(profile, events=events, wall_ms=16.0).busy() == 0.5


def test_a_slow_op_among_many_small_ones_is_on_top(tmp_path):
    def work():
        for _ in range(50):
            torch.relu(torch.ones(10))
        torch.arange(2_000_000, 0, -1).sort()

    table = profiling.profile(work, tmp_path).table()
    assert table.top.name == "aten::sort"
    assert table["aten::relu"].calls == 50


def test_a_table_shows_its_first_rows_and_the_sum_of_the_others():
    rows = make_table((f"op{n}", "other", 2, 10.0 + n, 6.0, "cpu") for n in range(20))
    heading, *lines = rows.cells()
    assert heading == ["name", "kind", "calls", "total ms", "mean ms", "max ms", "share", "device"]
    assert len(lines) == 16
    assert lines[0][:4] == ["op19", "other", "2", "29.0"]
    assert lines[-1] == ["5 more", "", "10", "60.0", "6", "6", "15.4 %", "cpu"]
    assert rows._repr_markdown_().splitlines()[-1] == "| `5 more` |  | 10 | 60.0 | 6 | 6 | 15.4 % | cpu |"


def test_each_device_has_shares_of_its_own_and_the_accelerator_stands_first():
    table = make_table([("launch", "other", 1, 9.0, 9.0, "cpu"), ("gemm", "matmul", 3, 1.0, 1.0, "npu")])
    assert [(row.name, row.share) for row in table] == [("gemm", 1.0), ("launch", 1.0)]
    assert table.top.name == "gemm"
    assert (table.share("matmul"), table.share("other")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matmul"),
        ("aten::mm", "matmul"),
        ("BatchMatMulV2", "matmul"),
        ("ampere_sgemm_128x64_tn", "matmul"),
        ("nvjet_hsh_128x64", "matmul"),
        ("aten::mul", "other"),
        ("aten::mkldnn_convolution", "convolution"),
        ("Conv2D", "convolution"),
        ("ConvertElementType", "other"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("FlashAttentionScore", "attention"),
        ("softmax_warp_forward", "softmax"),
        ("aten::native_layer_norm", "normalisation"),
        ("LayerNormV3", "normalisation"),
        ("aten::gelu", "activation"),
        ("Erf", "activation"),
        ("aten::cat", "copy and shape"),
        ("CatArrayBatchedCopy", "copy and shape"),
        ("aten::t", "copy and shape"),
        ("aten::to", "copy and shape"),
        ("TransData", "copy and shape"),
        ("StridedSlice", "copy and shape"),
        ("aten::add", "other"),
        ("aten::sort", "other"),
    ],
)
def test_the_kind_of_an_op(name, kind):
    assert profiling.kind_of(name) == kind


@st.composite
def nested_spans(draw, start=0, length=10_000, depth=3):
    """Spans that lie in one another as calls do, the outermost first."""
    spans = [Span("op", start, length, "cpu", "1:1", nests=True)]
    cuts = sorted(draw(st.lists(st.integers(start, start + length), max_size=6, unique=True)))
    for a, b in zip(cuts[::2], cuts[1::2], strict=False):
        spans += draw(nested_spans(a, b - a, depth - 1)) if depth else [Span("op", a, b - a, "cpu", "1:1", nests=True)]
    return spans


@given(nested_spans(), st.randoms())
def test_own_times_of_nested_calls_add_up_to_the_outermost(spans, random):
    shuffled = random.sample(spans, len(spans))
    pairs = own_times(shuffled)
    assert len(pairs) == len(spans)
    assert all(0 <= own <= span.length for span, own in pairs)
    assert sum(own for _, own in pairs) == 10_000


def test_kernels_that_overlap_keep_their_whole_time():
    spans = [Span("a", 0, 10, "cuda", "0:7", nests=False), Span("b", 2, 3, "cuda", "0:7", nests=False)]
    assert {span.name: own for span, own in own_times(spans)} == {"a": 10, "b": 3}


# --- phases and the trace ---------------------------------------------------------------------------------------------


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


def test_work_without_ops_is_said_to_be_empty(tmp_path):
    with pytest.raises(TraceError):
        profiling.profile(lambda: sum(range(1000)), tmp_path)


def test_an_error_in_the_work_stops_the_profiler_and_is_passed_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        profiling.profile(lambda: 1 / 0, tmp_path, warmup=0)
    assert profiling.profile(multiply_and_activate, tmp_path).events


def test_a_trace_of_cuda_gives_its_kernels_and_the_hosts_ops(tmp_path):
    softmax = "void at::native::(anonymous namespace)::softmax_warp_forward<float, int, 4>(float*, float const*, int)"
    events = [
        {"ph": "X", "cat": "user_annotation", "name": "encoder", "pid": 1, "tid": 1, "ts": 0, "dur": 100},
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "pid": 1, "tid": 1, "ts": 0, "dur": 100},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "encoder", "pid": 0, "tid": 7, "ts": 20, "dur": 60},
        {"ph": "X", "cat": "cpu_op", "name": "aten::softmax", "pid": 1, "tid": 1, "ts": 1, "dur": 10},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 2, "dur": 5},
        {"ph": "X", "cat": "kernel", "name": softmax, "pid": 0, "tid": 7, "ts": 20, "dur": 60},
    ]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": events}))
    ops, phases = profiling.read_trace(tmp_path / "trace.json")
    assert [(op.name, op.device, op.ms, op.phase) for op in ops] == [
        ("aten::softmax", "cpu", 0.01, "encoder"),
        ("softmax_warp_forward", "cuda", 0.06, "encoder"),
    ]
    assert [phase.name for phase in phases] == ["encoder"]


# --- the whole model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model():
    config = Config(32, 2, 2, 2, 51864, mels=80)
    model = torch_model.Whisper(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def run_model(model, steps=3):
    audio, cache = model.encode(np.zeros((1, 80, 3000), np.float32)), model.new_cache()
    for _ in range(steps):
        model.step(np.array([[50257]]), audio, cache)


def test_a_labelled_model_computes_the_same_in_named_phases(small_model, tmp_path):
    labelled = profiling.LabelledModel(small_model)
    profile = profiling.profile(lambda: run_model(labelled), tmp_path)
    calls = {row.name: row.calls for row in profile.by_phase()}
    assert calls == {"encoder": 1, "prefill": 1, "decode step": 2}
    assert profile.table("encoder")["aten::conv1d"].calls == 2
    assert all("conv" not in row.name for row in profile.table("decode step"))
    mel = np.random.default_rng(0).normal(size=(1, 80, 3000)).astype(np.float32)
    torch.testing.assert_close(labelled.encode(mel), small_model.encode(mel))


def test_waste_planted_in_the_model_is_found_as_in_the_exercise(small_model, tmp_path, monkeypatch):
    def wasteful(x, weight, bias, stride, padding):
        return (
            torch.nn.functional.conv1d(x, weight, bias, stride, padding)
            + 0 * torch.cosh(x.tanh().expand(60, -1, -1)).amin()
        )

    def calls():
        """Each op's smallest sum of three profiles: a stall would have to hit the same op in all of them."""
        profiles = [profiling.profile(lambda: run_model(small_model), tmp_path) for _ in range(3)]
        sums = [{row.name: row.total_ms for row in profile.table()} for profile in profiles]
        return [(op, min(sums_of_one[op] for sums_of_one in sums)) for op in sums[0]]

    before = calls()
    monkeypatch.setattr(small_model.encoder, "conv1d", wasteful)
    after = calls()
    assert "aten::cosh" not in dict(before)
    assert exercises.find("4.4").solution(before, after) == "aten::cosh"


# --- plots, widgets, silence ------------------------------------------------------------------------------------------


def bars_by_lane(figure):
    axes = figure.axes[0]
    lanes = [label.get_text() for label in axes.get_yticklabels()]
    counts = dict.fromkeys(lanes, 0)
    for collection in axes.collections:
        for path in collection.get_paths():
            counts[lanes[math.floor(path.get_extents().y0 + 0.5)]] += 1
    return counts


def test_the_timeline_draws_every_op_that_computes_in_its_kinds_lane(profile):
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
    stretches = (Event("first", "phase", 0.0, 3.0, 3.0, "phase"), Event("second", "phase", 4.0, 3.0, 3.0, "phase"))
    profile = profiling.Profile(ops, stretches, 8.0, tmp_path / "trace.json")
    assert bars_by_lane(profile.timeline()) == {"phase": 2, "convolution": 1, "softmax": 1, "other": 1}
    assert bars_by_lane(profile.timeline("first")) == {"phase": 1, "convolution": 1, "softmax": 1}
    assert bars_by_lane(profile.timeline("second")) == {"phase": 1, "other": 1}
    assert bars_by_lane(profile.timeline(kind="softmax")) == {"phase": 2, "softmax": 1}
    assert bars_by_lane(profile.timeline(op="SORT")) == {"phase": 2, "other": 1}


def test_a_static_page_gets_the_picture_alone(profile, monkeypatch, capsys):
    monkeypatch.setenv("LAB_STATIC_PAGE", "1")
    widgets.explore(profile)
    assert "Plot: Timeline of" in capsys.readouterr().out


def test_the_widget_redraws_what_is_chosen(profile, monkeypatch):
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    box = widgets.timeline_filter(profile)
    (phase, kind, op), picture = box.children[0].children, box.children[1]
    whole = picture.value
    assert 'alt="Timeline of' in whole
    phase.value = "second"
    assert picture.value != whole
    assert "convolution" not in picture.value.partition("src=")[0]
    kind.value, op.value = "convolution", "no such op"
    assert "none fits" in picture.value


def test_quiet_keeps_words_from_the_terminal_in_the_log(tmp_path, capfd, caplog):
    with profiling.quiet(tmp_path / "log"):
        os.write(2, b"from native code\n")
        print("from Python")
        logging.getLogger("mindspore").warning("a warning")
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "log").read_text().split("\n")[:2] == ["from native code", "from Python"]
    assert caplog.text == ""
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_profiling_says_nothing_on_the_terminal(tmp_path, capfd):
    profiling.profile(multiply_and_activate, tmp_path)
    assert capfd.readouterr() == ("", "")
