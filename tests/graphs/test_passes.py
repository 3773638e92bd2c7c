"""The passes that change products, each on random small graphs: equal numbers, and nothing touched that must stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from labsupport.base.errors import GraphError
from labsupport.graphs import analysis, passes
from labsupport.graphs.loop import open_session
from labsupport.graphs.loop_interface import read_interface
from labsupport.graphs.passes import permutes, tile

FEW = settings(max_examples=15, deadline=None)


def small_graph(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    """Float32 inputs and outputs by name and shape; constants by name and array."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in part.items()]
        for part in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    made = helper.make_graph(nodes, "small", *values, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return open_session(model, optimise=False, threads=1).run(None, feed)


def random_feed(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {v.name: random.standard_normal(analysis.shape_of(v)).astype(np.float32) for v in model.graph.input}


# --- tile_to_broadcast ----------------------------------------------------------------------------------------------


@st.composite
def tiled_products(draw):
    """a @ permuted(Tile(b)), over random batch axes of which some are repeated."""
    batch = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    repeated = draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch)))
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    full = [*batch, inner, columns]
    perm = draw(st.permutations(range(len(full))))
    back = [perm.index(axis) for axis in range(len(full))]
    times = [n if again else 1 for n, again in zip(batch, repeated, strict=True)] + [1, 1]
    before = [full[axis] // times[axis] for axis in back]
    nodes = [
        helper.make_node("Tile", ["b", "repeats"], ["tiled"]),
        helper.make_node("Transpose", ["tiled"], ["right"], perm=perm),
        helper.make_node("MatMul", ["a", "right"], ["y"]),
    ]
    inputs = {"a": [*batch, rows, inner], "b": before}
    repeats = np.array([times[axis] for axis in back], np.int64)
    return small_graph(nodes, inputs, {"y": [*batch, rows, columns]}, {"repeats": repeats})


@FEW
@given(tiled_products(), st.integers(0, 99))
def test_a_tile_before_a_product_goes_and_nothing_changes(model, seed):
    rewritten = tile.tile_to_broadcast(model)
    repeats = numpy_helper.to_array(model.graph.initializer[0])
    assert analysis.op_counts(rewritten)["Tile"] == int(np.all(repeats == 1))
    feed = random_feed(model, seed)
    np.testing.assert_allclose(run(rewritten, feed)[0], run(model, feed)[0], atol=1e-6)


def tile_case(kind: str) -> onnx.ModelProto:
    """Tiles that must stay, each for its own reason."""
    tile, product = helper.make_node("Tile", ["b", "repeats"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["y"])
    inputs, outputs, times = {"a": [3, 2, 4], "b": [1, 4, 5]}, {"y": [3, 2, 5]}, [3, 1, 1]
    nodes = [tile, product]
    if kind == "the graph gives it out":
        outputs["t"] = [3, 4, 5]
    elif kind == "the other operand is as short":
        inputs["a"] = [1, 2, 4]
    elif kind == "it repeats what is longer than 1":
        inputs["b"], inputs["a"], outputs, times = [2, 4, 5], [4, 2, 4], {"y": [4, 2, 5]}, [2, 1, 1]
    elif kind == "it repeats an axis that is summed over":
        inputs["b"], times = [3, 1, 5], [1, 4, 1]
    elif kind == "a softmax reads it, too":
        nodes = [tile, product, helper.make_node("Softmax", ["t"], ["s"])]
        outputs["s"] = [3, 4, 5]
    elif kind == "both operands are tiled":
        nodes = [tile, helper.make_node("Tile", ["a", "repeats"], ["u"]), helper.make_node("MatMul", ["u", "t"], ["y"])]
        inputs["a"] = [1, 2, 4]
    return small_graph(nodes, inputs, outputs, {"repeats": np.array(times, np.int64)})


STAYS = [
    "the graph gives it out",
    "the other operand is as short",
    "it repeats what is longer than 1",
    "it repeats an axis that is summed over",
    "a softmax reads it, too",
]


@pytest.mark.parametrize("kind", STAYS)
def test_a_tile_that_is_needed_stays_byte_for_byte(kind):
    model = tile_case(kind)
    analysis.check(model)
    for name in passes.PASSES:
        assert passes.PASSES[name](model).SerializeToString() == model.SerializeToString(), name


def test_of_two_tiles_of_one_product_one_stays():
    model = tile_case("both operands are tiled")
    rewritten = tile.tile_to_broadcast(model)
    assert analysis.op_counts(rewritten)["Tile"] == 1
    feed = random_feed(model, 0)
    np.testing.assert_allclose(run(rewritten, feed)[0], run(model, feed)[0], atol=1e-6)


# --- eliminate_permutes ---------------------------------------------------------------------------------------------


@st.composite
def permuted_products(draw):
    """a @ Transpose(b), a of one row or of more, any permute; b may go out as well."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    perm = draw(st.permutations(range(len(shape))))
    seen = [shape[axis] for axis in perm]
    rows = draw(st.sampled_from([1, 3]))
    nodes = [
        helper.make_node("Transpose", ["b"], ["right"], perm=perm),
        helper.make_node("MatMul", ["a", "right"], ["y"]),
    ]
    inputs = {"a": [*seen[:-2], rows, seen[-2]], "b": shape}
    return small_graph(nodes, inputs, {"y": [*seen[:-2], rows, seen[-1]]})


@FEW
@given(permuted_products(), st.integers(0, 99))
def test_a_permuted_input_is_taken_permuted_and_nothing_changes(model, seed):
    rewritten = permutes.eliminate_permutes(model)
    feed = random_feed(model, seed)
    layouts = permutes.layouts(rewritten)
    permuted = {name: np.ascontiguousarray(x.transpose(layouts.get(name, range(x.ndim)))) for name, x in feed.items()}
    np.testing.assert_allclose(run(rewritten, permuted)[0], run(model, feed)[0], atol=1e-5)
    assert (rewritten.SerializeToString() == model.SerializeToString()) == (not layouts)
    if layouts:
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


# --- what is asked of any graph --------------------------------------------------------------------------------------


def test_a_rewrite_that_breaks_shapes_is_refused():
    model = tile_case(STAYS[0])
    model.graph.node[0].input[0] = "a"
    with pytest.raises(GraphError, match="contradicts itself"):
        analysis.check(model)
    with pytest.raises(GraphError, match="no pass"):
        passes.run_all(model, ["make_it_fast"])


def test_bytes_are_counted_by_hand_too():
    model = tile_case(STAYS[3])  # Tile (3, 1, 5) -> (3, 4, 5), MatMul with (3, 2, 4) -> (3, 2, 5)
    repeats, short, long = 3 * 8, 15 * 4, 60 * 4
    assert analysis.bytes_by_op(model) == {"Tile": repeats + short + long, "MatMul": 24 * 4 + long + 30 * 4}


def test_a_graph_that_is_no_loop_has_no_interface():
    with pytest.raises(GraphError, match="loop graph"):
        read_interface(tile_case(STAYS[0]))
