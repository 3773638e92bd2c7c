"""What MindSpore's array functions do in their own way: rows that move whole, buffers that are Parameters, groups."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from labsupport.arrays import on_mindspore

pytestmark = pytest.mark.mindspore


def test_rows_of_a_tensor_move_to_a_copy_and_those_of_a_parameter_in_place():
    values = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    moved = values[[2, 1, 2]]
    tensor, parameter = Tensor(values), Parameter(Tensor(values), requires_grad=False)
    copy = on_mindspore.move_rows(tensor, np.array([2]), np.array([0]), stop=1)
    assert np.array_equal(copy.asnumpy(), moved)
    assert np.array_equal(tensor.asnumpy(), values)
    assert on_mindspore.move_rows(parameter, np.array([2]), np.array([0]), stop=1) is parameter
    assert np.array_equal(parameter.asnumpy(), moved)


def double(x):
    return x + x


def test_a_compiled_function_counts_once_for_each_shape():
    compiled, counts = on_mindspore.compiled(double), []
    for length in (2, 2, 3):
        compiled(Tensor(np.ones(length, np.float32))).asnumpy()
        counts.append(on_mindspore.graphs_compiled())
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [0, 1]


def test_weights_have_the_same_names_inside_a_group():
    layers = nn.CellList([nn.Dense(2, 2), nn.Dense(2, 2)])
    names = [weight.name for weight in layers.trainable_params()]
    assert [weight.name for weight in on_mindspore.Group(list(layers)).trainable_params()] == names
