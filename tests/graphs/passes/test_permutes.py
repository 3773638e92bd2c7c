"""eliminate_permutes on random small graphs: equal numbers, and nothing changed that is read in another order, too."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from small_graphs import first_output, random_feed, small_graph

from labsupport.graphs import analysis, passes
from labsupport.graphs.loop_interface import read_layouts
from labsupport.graphs.passes.permutes import moves_only_ones


@st.composite
def permuted_products(draw):
    """a @ Transpose(b), a of one row or of more, any permute; b may go out as well."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    perm = draw(st.permutations(range(len(shape))))
    permuted_shape = [shape[axis] for axis in perm]
    rows = draw(st.sampled_from([1, 3]))
    nodes = [
        helper.make_node("Transpose", ["b"], ["right"], perm=perm),
        helper.make_node("MatMul", ["a", "right"], ["y"]),
    ]
    inputs = {"a": [*permuted_shape[:-2], rows, permuted_shape[-2]], "b": shape}
    return small_graph(nodes, inputs, {"y": [*permuted_shape[:-2], rows, permuted_shape[-1]]})


@settings(max_examples=15, deadline=None)
@given(permuted_products(), st.integers(0, 99))
def test_a_permuted_input_is_taken_permuted_and_nothing_changes(model, seed):
    rewritten = passes.eliminate_permutes(model)
    feed = random_feed(model, seed)
    orders = read_layouts(rewritten)
    permuted = {name: np.ascontiguousarray(x.transpose(orders.get(name, range(x.ndim)))) for name, x in feed.items()}
    np.testing.assert_allclose(first_output(rewritten, permuted), first_output(model, feed), atol=1e-5)
    assert (rewritten.SerializeToString() == model.SerializeToString()) == (not orders)
    if orders:
        assert analysis.op_counts(rewritten)["Transpose"] == 0


def test_a_permute_of_what_is_read_otherwise_too_stays_byte_for_byte():
    nodes = [
        helper.make_node("Transpose", ["b"], ["right"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "right"], ["y"]),
        helper.make_node("Softmax", ["b"], ["s"]),
    ]
    model = small_graph(nodes, {"a": [2, 3, 4], "b": [2, 5, 4]}, {"y": [2, 3, 5], "s": [2, 5, 4]})
    for name in passes.PASSES:
        assert passes.PASSES[name](model).SerializeToString() == model.SerializeToString(), name


@given(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=5), st.data())
def test_a_permute_moves_only_ones_where_the_order_in_memory_stays(shape, data):
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    array = np.arange(np.prod(shape)).reshape(shape)
    assert moves_only_ones(shape, perm) == np.array_equal(array.transpose(perm).ravel(), array.ravel())
