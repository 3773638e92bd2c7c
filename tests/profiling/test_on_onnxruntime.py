"""ONNX Runtime's profile as the op table: against the graph that ran, and with damaged and foreign files."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from labsupport import profiling
from labsupport.base.errors import TraceError
from labsupport.profiling.on_onnxruntime import read_onnxruntime, record_session

RUNS = 3


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A real profile: two products and a softmax, three runs."""
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["y"]),
        helper.make_node("MatMul", ["y", "x"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"]),
    ]
    square, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xp")
    graph = helper.make_graph(nodes, "small", [square], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    folder = tmp_path_factory.mktemp("profile")
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "raw")
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((64, 64), np.float32)}
    record_session(session, lambda: session.run(None, feed), RUNS, folder / "trace.json")
    return folder / "trace.json"


def test_the_table_counts_every_call_of_the_graph(trace):
    ops, runs = read_onnxruntime(trace)
    table = profiling.op_table(ops)
    assert {row.name: row.calls for row in table} == {"MatMul": 2 * RUNS, "Softmax": RUNS}
    assert {row.name: row.kind for row in table} == {"MatMul": "matmul", "Softmax": "softmax"}
    assert sum(row.share for row in table) == pytest.approx(1)
    assert {row.device for row in table} == {"cpu"}
    assert [run.name for run in runs] == ["run 1", "run 2", "run 3"]


def test_times_are_the_files_own_and_lie_in_their_run(trace):
    ops, runs = read_onnxruntime(trace)
    raw = [entry for entry in json.loads(trace.read_text()) if entry["cat"] == "Node"]
    assert sum(op.ms for op in ops) == pytest.approx(sum(entry["dur"] for entry in raw) / 1e3)
    for run in runs:
        inside = [op for op in ops if op.phase == run.name]
        assert len(inside) == 3
        assert all(run.start_ms <= op.start_ms and op.end_ms <= run.end_ms + 0.002 for op in inside)


def test_missing_empty_and_cut_files_are_refused(trace, tmp_path):
    with pytest.raises(TraceError, match="no such trace"):
        read_onnxruntime(tmp_path / "none.json")
    for text, what in [
        ("", "is empty"),
        ("[]", "no kernel"),
        (trace.read_text()[:-200], "no whole JSON"),
        ("{}", "no list of events"),
    ]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(TraceError, match=what) as error:
            read_onnxruntime(tmp_path / "bad.json")
        assert error.value.where == tmp_path / "bad.json"


def test_a_session_that_ran_nothing_has_no_kernel(trace, tmp_path):
    entries = [entry for entry in json.loads(trace.read_text()) if entry["cat"] == "Session"]
    (tmp_path / "idle.json").write_text(json.dumps(entries))
    with pytest.raises(TraceError, match="no kernel"):
        read_onnxruntime(tmp_path / "idle.json")


@pytest.mark.parametrize("fault", [{"dur": "long"}, {"ts": None}, {"args": {}}, {"args": None}])
def test_a_damaged_event_is_refused(trace, tmp_path, fault):
    entries = json.loads(trace.read_text())
    place = next(i for i, entry in enumerate(entries) if entry["cat"] == "Node")
    entries[place] |= fault
    (tmp_path / "damaged.json").write_text(json.dumps(entries))
    with pytest.raises(TraceError, match="lacks its op, or a time"):
        read_onnxruntime(tmp_path / "damaged.json")


def test_another_programs_trace_is_foreign(tmp_path):
    torch_like = {"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 2, "pid": 1}]}
    (tmp_path / "torch.json").write_text(json.dumps(torch_like))
    with pytest.raises(TraceError, match="not ONNX Runtime's"):
        read_onnxruntime(tmp_path / "torch.json")
