"""The operations against torch's."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset15 as ops

from labsupport.engine.ops import (
    Linear,
    layer_norm,
    linear,
    merge_heads,
    size_of,
    split_heads,
    split_in_three,
)
from labsupport.engine.quantization import quantize, symmetric_range
from labsupport.engine.rounding import EXACT
from labsupport.engine.runtime import compile_graph

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 12)).astype(np.float32)
WEIGHT, BIAS = RNG.normal(size=(8, 12)).astype(np.float32), RNG.normal(size=8).astype(np.float32)


def run(build, x=X) -> np.ndarray:
    given = ops.parameter([-1] * x.ndim, np.float32, name="x")
    return compile_graph(ov.Model([ops.result(build(given))], [given], "test"), EXACT)([x])[0]


@pytest.mark.parametrize("bias", [None, BIAS])
def test_a_linear_layer(bias):
    expected = torch.nn.functional.linear(
        torch.tensor(X), torch.tensor(WEIGHT), None if bias is None else torch.tensor(bias)
    )
    np.testing.assert_allclose(run(lambda x: linear(x, Linear(WEIGHT, bias))), expected, atol=1e-5)


def test_eight_bit_weights_are_multiplied_as_they_would_be_if_written_out():
    found, weight = run(lambda x: linear(x, Linear(quantize(WEIGHT), BIAS))), quantize(WEIGHT)
    np.testing.assert_allclose(found, X @ (weight.codes * weight.scales).T + BIAS, atol=0.05)
    assert np.abs(found - (X @ WEIGHT.T + BIAS)).max() > 1e-4  # rounded they are


def test_eight_bit_inputs_are_rounded_inside_their_range():
    largest = float(np.abs(X).max())
    found = run(lambda x: linear(x, Linear(quantize(WEIGHT), BIAS, symmetric_range(largest))))
    weight, step = quantize(WEIGHT), largest / 127
    np.testing.assert_allclose(found, (np.round(X / step) * step) @ (weight.codes * weight.scales).T + BIAS, atol=1e-4)
    clipped = run(lambda x: linear(x, Linear(quantize(WEIGHT), BIAS, symmetric_range(largest / 4))))
    assert np.abs(clipped - found).max() > 0.1


def test_a_layer_norm():
    gain, bias = RNG.normal(size=(2, 12)).astype(np.float32)
    expected = torch.nn.functional.layer_norm(torch.tensor(X), (12,), torch.tensor(gain), torch.tensor(bias))
    np.testing.assert_allclose(run(lambda x: layer_norm(x, gain, bias)), expected, atol=1e-5)


def test_heads_are_split_and_merged():
    split = run(lambda x: split_heads(x, 3, 4))
    np.testing.assert_array_equal(split, X.reshape(2, 3, 3, 4).transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(run(lambda x: merge_heads(x, 12), split), X)


@pytest.mark.parametrize("part", range(3))
def test_a_fused_product_is_parted(part):
    np.testing.assert_array_equal(run(lambda x: split_in_three(x)[part]), X[..., 4 * part : 4 * part + 4])


@pytest.mark.parametrize("axis", range(3))
def test_a_size(axis):
    assert run(lambda x: size_of(x, axis)).tolist() == [X.shape[axis]]
