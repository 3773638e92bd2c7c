"""tile_to_broadcast on random small graphs: equal numbers, and no Tile removed that is needed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from small_graphs import first_output, random_feed, small_graph

from labsupport.graphs import analysis, passes
from labsupport.graphs.passes.tile import may_broadcast


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


@settings(max_examples=15, deadline=None)
@given(tiled_products(), st.integers(0, 99))
def test_a_tile_before_a_product_goes_and_nothing_changes(model, seed):
    rewritten = passes.tile_to_broadcast(model)
    assert analysis.op_counts(rewritten)["Tile"] == 0
    feed = random_feed(model, seed)
    np.testing.assert_allclose(first_output(rewritten, feed), first_output(model, feed), atol=1e-6)


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
    analysis.shapes_of(model)
    for name, rewrite in passes.PASSES.items():
        assert rewrite(model).SerializeToString() == model.SerializeToString(), name


def test_of_two_tiles_of_one_product_one_stays():
    model = tile_case("both operands are tiled")
    rewritten = passes.tile_to_broadcast(model)
    assert analysis.op_counts(rewritten)["Tile"] == 1
    feed = random_feed(model, 0)
    np.testing.assert_allclose(first_output(rewritten, feed), first_output(model, feed), atol=1e-6)


def test_another_decision_is_asked_with_the_shapes_that_the_product_sees():
    asked = []
    model = tile_case("both operands are tiled")
    rewritten = passes.tile_to_broadcast(model, may_go=lambda *shapes: bool(asked.append(shapes)))
    assert asked == [([1, 4, 5], [3, 1, 1], [3, 2, 4]), ([1, 2, 4], [3, 1, 1], [3, 4, 5])]
    assert rewritten.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize(
    ("shape", "repeats", "other", "allowed"),
    [
        ([1, 8, 64, 1500], [5, 1, 1, 1], [5, 8, 1, 64], True),
        ([1, 8, 64, 1500], [5, 1, 1, 1], [1, 8, 1, 64], False),
        ([2, 8, 64, 1500], [5, 1, 1, 1], [10, 8, 1, 64], False),
        ([5, 1, 64], [1, 7, 1], [5, 64, 7], False),
        ([None, 64, 7], [5, 1, 1], [None, 1, 64], False),
    ],
)
def test_may_broadcast(shape, repeats, other, allowed):
    assert may_broadcast(shape, repeats, other) == allowed
