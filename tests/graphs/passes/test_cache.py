"""The cache's passes: what they leave alone. tests/graphs/passes/test_passes.py holds what they change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from labsupport.graphs import passes
from labsupport.graphs.passes.cache import axis_through_reshape


def with_reader(model, value: str, op: str, **attributes) -> onnx.ModelProto:
    """A copy in which one more op reads a value, for the graph's caller."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node(op, [value], ["extra"], **attributes))
    copy.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, None))
    return copy


def test_caches_whose_rows_are_read_otherwise_are_left_alone(small):
    growing = with_reader(small[0], "k.0", "ReduceMax", axes=[1])
    assert passes.cache_to_static(growing).SerializeToString() == growing.SerializeToString()
    shifting = with_reader(passes.cache_to_static(small[0]), "v.1", "ReduceMax", axes=[1])
    assert passes.fuse_slice_concat(shifting).SerializeToString() == shifting.SerializeToString()
    weights = next(node.output[0] for node in small[0].graph.node if node.op_type == "Softmax")
    given_out = with_reader(small[0], weights, "Identity")
    assert passes.cache_to_static(given_out).SerializeToString() == given_out.SerializeToString()


@pytest.mark.parametrize("index", [0, 1])
def test_a_slice_of_other_rows_is_not_taken_for_the_pass_own(small, index):
    """The fusion wants a Slice from row 1, to the end."""
    static = passes.cache_to_static(small[0], capacity=9)
    name = ("second_row", "no_end")[index]
    tensor = next(tensor for tensor in static.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([0 if index == 0 else 8], np.int64), name))
    assert passes.fuse_slice_concat(static).SerializeToString() == static.SerializeToString()


@pytest.mark.parametrize(
    ("before", "after", "axis", "expected"),
    [
        ([5, 1, 8, 64], [5, 8, 1, 64], 2, 1),
        ([5, None, 1], [5, 1, None], 1, 2),
        ([5, 1, 8], [5, 8], 1, None),  # an axis of length 1 is not followed
        ([5, 8, 64], [5, 512], 1, None),
        ([5, 8], [8, 5], 0, None),
    ],
)
def test_an_axis_is_followed_through_reshapes_that_move_only_ones(before, after, axis, expected):
    assert axis_through_reshape(before, after, axis) == expected
