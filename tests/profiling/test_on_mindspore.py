"""The same table from what MindSpore's CPU backend really writes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from labsupport import profiling
from labsupport.base.errors import TraceError

pytestmark = pytest.mark.mindspore

MATRIX = np.random.default_rng(0).normal(size=(96, 96)).astype(np.float32)


@ms.jit
def graph(x):
    return ops.softmax(ops.matmul(x, x), -1) + ops.erf(x)


def work():
    x = Tensor(MATRIX)
    with profiling.phase("pynative"):
        ops.conv1d(x[None], Tensor(np.ones((8, 96, 3), np.float32)), pad_mode="pad", padding=1)
        ops.softmax(x @ x, -1)
    with profiling.phase("graph"):
        graph(x).asnumpy()


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    before = Path.cwd()
    os.chdir(folder)  # MindSpore leaves folders where it stands
    try:
        yield profiling.profile(work, folder)
    finally:
        os.chdir(before)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def test_the_table_equals_mindspores_own_sums(profile):
    with only(profile.trace.parent, "cpu_op_type_info_0.csv").open(newline="") as file:
        expected = {line["op_type"]: line for line in csv.DictReader(file, skipinitialspace=True)}
    table = profile.table()
    assert {row.name: row.calls for row in table} == {n: int(row["type_occurrences"]) for n, row in expected.items()}
    for name, row in expected.items():
        assert table[name].total_ms == pytest.approx(float(row["total_compute_time"]), rel=1e-3, abs=1e-5)
    assert sum(row.share for row in table) == pytest.approx(1)
    assert 0 < profile.busy_fraction() <= 1


def test_conv1d_is_a_conv2d_inside(profile):
    names = {row.name for row in profile.table("pynative")}
    assert "Conv2D" in names
    assert not any("conv1d" in name.lower() for name in names)


def test_phases_hold_the_ops_that_ran_in_them_queued_or_compiled(profile):
    assert [phase.name for phase in profile.phases] == ["pynative", "graph"]
    assert {event.phase for event in profile.events} == {"pynative", "graph"}
    assert profile.table("pynative").share("convolution") > 0 == profile.table("graph").share("convolution")
    assert profile.table("graph")["Erf"].calls == 1
    for kind in ("matmul", "softmax"):
        assert {event.phase for event in profile.select(kind=kind)} == {"pynative", "graph"}


def test_the_trace_is_json_with_what_viewers_need(profile):
    events = json.loads(profile.trace.read_text())
    complete = [event for event in events if event["ph"] == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= set(event) for event in complete)
    assert all(float(event["dur"]) >= 0 for event in complete)
    assert {"pynative", "graph", "MatMul"} <= {event["name"] for event in complete}


def test_the_folder_that_mindspore_wrote_is_read_as_it_is(profile):
    folder = only(profile.trace.parent, "*_ascend_ms")
    events = profiling.read_output(folder)
    assert sorted((event.name, event.ms) for event in events) == sorted((e.name, e.ms) for e in profile.events)


def test_a_truncated_trace_is_refused(profile, tmp_path):
    whole = only(profile.trace.parent, "trace_view.json").read_bytes()
    (tmp_path / "trace_view.json").write_bytes(whole[: -len(whole) // 3])
    with pytest.raises(TraceError, match="no whole JSON"):
        profiling.read_trace(tmp_path / "trace_view.json")


def test_a_slow_op_among_many_small_ones_is_on_top(tmp_path):
    def slow():
        for _ in range(20):
            ops.relu(Tensor(MATRIX[0]))
        ops.cumsum(Tensor(np.ones((3000, 3000), np.float32)), 0).asnumpy()

    table = profiling.profile(slow, tmp_path).table()
    assert "CumSum" in table.top.name or "Cumsum" in table.top.name
    assert table["ReLU"].calls == 20


@pytest.mark.slow
def test_profiling_writes_nothing_on_the_terminal(profile, tmp_path):
    """In a process of its own: the profiler's messages come from native code and from children, after the fact."""
    code = f"""
import mindspore, numpy as np
from labsupport import profiling
x = mindspore.Tensor(np.ones((8, 8), np.float32))
mindspore.ops.softmax(x, -1).asnumpy()
print("start", flush=True)
profiling.profile(lambda: mindspore.ops.softmax(x, -1).asnumpy(), {str(tmp_path)!r})
print("end", flush=True)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LAB_BACKEND": "mindspore"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "start\nend\n"
    assert "Profiler" not in done.stderr
