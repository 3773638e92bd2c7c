"""What MindSpore has of its own, and where: what the course says about it must stay true."""

from __future__ import annotations

import inspect

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable
from labsupport.machine.backend import on_ascend
from labsupport.optim import conv1d

pytestmark = pytest.mark.mindspore

cpu_only = pytest.mark.skipif(on_ascend(), reason="Ascend has what the CPU lacks")


def make_tensors():
    return Tensor(np.ones((1, 2, 8), np.float32)), Tensor(np.ones((3, 2, 3), np.float32)), Tensor(np.ones(3, "f4"))


@cpu_only
def test_the_native_form_says_what_it_needs_and_what_to_use_instead():
    with pytest.raises(NotAvailable) as caught:
        conv1d.get_conv1d("native")
    for word in ("Conv1DExt", "Ascend", '"framework"'):
        assert word in str(caught.value)


@cpu_only
@pytest.mark.parametrize("call", [xp.conv1d_operator, mindspore.jit(xp.conv1d_operator)])
def test_the_kernel_is_really_missing(call):
    with pytest.raises(RuntimeError, match="Conv1DExt"):
        xp.to_numpy(call(*make_tensors(), 1, 1))


def test_mindspores_layer_takes_the_same_detour():
    x, weight, bias = make_tensors()
    layer = nn.Conv1d(2, 3, 3, stride=2, pad_mode="pad", padding=1, has_bias=True, weight_init=weight, bias_init=bias)
    assert [type(op) for op in (layer.expand_dims, layer.conv2d, layer.squeeze)] == [
        ops.ExpandDims,
        ops.Conv2D,
        ops.Squeeze,
    ]
    assert np.array_equal(layer(x).asnumpy(), conv1d.via_conv2d(x, weight, bias, 2, 1).asnumpy())


def test_mindspores_function_takes_it_too():
    source = inspect.getsource(ops.conv1d)
    assert all(step in source for step in ("expand_dims_(", "P.Conv2D", "P.Squeeze"))
