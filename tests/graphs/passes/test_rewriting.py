"""How axes are followed through changes of shape, and the frame that every pass stands in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import product

from labsupport.base.errors import GraphError
from labsupport.graphs.passes.rewriting import axis_through_reshape, moves_only_ones, rewriting

SHAPES = st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=5)


@given(SHAPES, st.data())
def test_a_permute_moves_only_ones_where_the_order_in_memory_stays(shape, data):
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    array = np.arange(np.prod(shape)).reshape(shape)
    assert moves_only_ones(shape, perm) == np.array_equal(array.transpose(perm).ravel(), array.ravel())


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


def test_a_pass_copies_its_argument_and_checks_its_result():
    @rewriting
    def nothing(model) -> bool:
        return False

    @rewriting
    def wrong(model) -> bool:
        model.graph.node(0).op_type = "Softmax"  # which takes one input, not two
        return True

    model = product()
    assert nothing(model) is not model
    assert nothing(model).SerializeToString() == model.SerializeToString()
    with pytest.raises(GraphError, match="contradicts itself"):
        wrong(model)
    assert model.SerializeToString() == product().SerializeToString()
