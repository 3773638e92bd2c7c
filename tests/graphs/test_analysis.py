"""Shapes, op counts and bytes of a graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from small_graphs import product, small_graph

from labsupport.base.errors import GraphError
from labsupport.graphs import analysis, passes


def test_a_graph_that_contradicts_itself_is_refused():
    model = product()
    analysis.shapes_of(model)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 5
    with pytest.raises(GraphError, match="contradicts itself"):
        analysis.shapes_of(model)


def test_shapes_take_the_values_of_symbolic_lengths(small):
    assert analysis.shapes_of(small[0])["past_k.0"] == (3, "past", 2, 4)
    shapes = analysis.shapes_of(small[0], past=10)
    assert shapes["past_k.0"] == (3, 10, 2, 4)
    assert shapes["k.0"] == (3, 11, 2, 4)


def test_bytes_are_those_counted_by_hand():
    nodes = [helper.make_node("Tile", ["b", "repeats"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["y"])]
    repeats = np.array([1, 4, 1], np.int64)
    model = small_graph(nodes, {"a": [3, 2, 4], "b": [3, 1, 5]}, {"y": [3, 2, 5]}, {"repeats": repeats})
    short, long = 15 * 4, 60 * 4
    assert analysis.bytes_by_op(model) == {"Tile": 3 * 8 + short + long, "MatMul": 24 * 4 + long + 30 * 4}


def test_bytes_need_the_value_of_a_symbolic_length(small):
    with pytest.raises(GraphError, match=r"size of .* is not known"):
        analysis.bytes_by_op(small[0])
    short, long = (sum(analysis.bytes_by_op(small[0], past=past).values()) for past in (10, 20))
    assert long > short


def test_a_row_written_in_place_moves_less_than_a_shifted_cache(small):
    shifting = analysis.bytes_by_op(passes.cache_to_static(small[0]))
    assert analysis.bytes_by_op(passes.run_all(small[0]))["ScatterND"] < shifting["Concat"] / 100
