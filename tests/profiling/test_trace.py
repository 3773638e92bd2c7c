"""Traces as the profilers write them: self times, devices, names. test_ascend.py has the damaged files."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from labsupport import profiling
from labsupport.profiling.trace import Span, self_times


@st.composite
def nested_spans(draw, start=0, length=10_000, depth=3):
    """Spans that lie in one another as calls do, the outermost first."""
    spans = [Span("op", start, length, "cpu", "1:1", nests=True)]
    cuts = sorted(draw(st.lists(st.integers(start, start + length), max_size=6, unique=True)))
    for a, b in zip(cuts[::2], cuts[1::2], strict=False):
        spans += draw(nested_spans(a, b - a, depth - 1)) if depth else [Span("op", a, b - a, "cpu", "1:1", nests=True)]
    return spans


@given(nested_spans(), st.randoms())
def test_self_times_of_nested_calls_add_up_to_the_outermost(spans, random):
    shuffled = random.sample(spans, len(spans))
    pairs = self_times(shuffled)
    assert len(pairs) == len(spans)
    assert all(0 <= time <= span.length for span, time in pairs)
    assert sum(time for _, time in pairs) == 10_000


def test_kernels_that_overlap_count_their_whole_time():
    spans = [Span("a", 0, 10, "cuda", "0:7", nests=False), Span("b", 2, 3, "cuda", "0:7", nests=False)]
    assert {span.name: time for span, time in self_times(spans)} == {"a": 10, "b": 3}


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
