"""Sessions of ONNX Runtime: their options, and whose memory their arrays are."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import helper
from small_graphs import matrices, product, small_graph

from labsupport.base.errors import NotAvailable
from labsupport.graphs.session import as_value, count_threads, open_session, run_bound, to_numpy


def test_a_graph_comes_as_a_model_as_bytes_or_as_a_file(tmp_path):
    onnx.save(product(), tmp_path / "product.onnx")
    feed = matrices()
    for graph in (product(), product().SerializeToString(), tmp_path / "product.onnx"):
        (c,) = open_session(graph).run(None, feed)
        np.testing.assert_allclose(c, feed["a"] @ feed["b"], atol=1e-5)


def test_the_options_reach_the_session(tmp_path):
    twice = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    model = small_graph(twice, {"a": (2, 2)}, {"c": (2, 2)})
    session = open_session(model, threads=3, optimise=False, prepack=False, profile=tmp_path / "trace")
    options = session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    session.run(None, {"a": np.zeros((2, 2), np.float32)})
    trace = session.end_profiling()
    assert trace.startswith(str(tmp_path / "trace"))
    with open(trace, encoding="utf-8") as file:
        assert "Identity" in file.read()  # the optimiser would have removed it


def test_threads_are_those_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert count_threads() == 3
    assert open_session(product()).get_session_options().intra_op_num_threads == 3


def test_a_value_is_the_arrays_memory_and_to_numpy_a_copy():
    array = np.zeros((2, 2), np.float32)
    value = as_value(array)
    copy = to_numpy(value)
    assert not np.shares_memory(copy, array)
    array[0, 0] = 1
    assert value.numpy()[0, 0] == 1
    assert copy[0, 0] == 0


def test_a_bound_run_gives_every_output_by_name():
    nodes = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Abs", ["a"], ["c"])]
    model = small_graph(nodes, {"a": (2, 2)}, {"b": (2, 2), "c": (2, 2)})
    outputs = run_bound(open_session(model), {"a": np.eye(2, dtype=np.float32)})
    assert {name: value.numpy().sum() for name, value in outputs.items()} == {"b": -2, "c": 2}


def test_a_missing_runtime_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(NotAvailable, match="not installed"):
        open_session(product())
