"""The rewrite for a chip that holds its caches: a step that gives new rows only computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from small_graphs import product, small_graph

from labsupport.base.errors import SophonError
from labsupport.sophon.compiler import run_onnx
from labsupport.sophon.rewrites import new_rows_only


def appending_step(kind: str = "Concat") -> onnx.ModelProto:
    """past_k.0 (2, 3, 4) and a row (2, 1, 4) -> k.0 (2, 4, 4), and a sum over all of it."""
    append = helper.make_node("Concat", ["past_k.0", "new"], ["k.0"], axis=1)
    if kind != "Concat":
        append = helper.make_node(kind, ["new"], ["k.0"])
    nodes = [
        helper.make_node("Neg", ["row"], ["new"]),
        append,
        helper.make_node("ReduceSum", ["k.0", "axis"], ["sum"], keepdims=1),
    ]
    inputs, outputs = {"past_k.0": (2, 3, 4), "row": (2, 1, 4)}, {"sum": (2, 1, 4), "k.0": (2, 4, 4)}
    return small_graph(nodes, inputs, outputs, {"axis": np.array([1], np.int64)})


def test_a_step_that_gives_new_rows_only_computes_the_same():
    random = np.random.default_rng(0)
    shapes = {"past_k.0": (2, 3, 4), "row": (2, 1, 4)}
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    whole = appending_step()
    before = whole.SerializeToString()
    expected, got = run_onnx(whole, inputs), run_onnx(new_rows_only(whole), inputs)
    np.testing.assert_array_equal(got["sum"], expected["sum"])
    np.testing.assert_array_equal(got["k.0"], expected["k.0"][:, -1:])
    assert whole.SerializeToString() == before
    onnx.checker.check_model(new_rows_only(whole), full_check=True)


def test_a_step_without_appended_caches_is_refused():
    with pytest.raises(SophonError, match="no outputs"):
        new_rows_only(product())
    with pytest.raises(SophonError, match="not made by appending"):
        new_rows_only(appending_step("Identity"))
