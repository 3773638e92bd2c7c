"""Eight bits: no value is off by more than half a step, and smoothing changes no product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.engine.quantization import quantize, smoothing, symmetric_range

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.exp(rng.normal(scale=2, size=shape[-1]))).astype(np.float32)


@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
def test_each_weight_is_off_by_half_a_step_at_most(seed, rows, columns):
    weight = draw(seed, rows, columns)
    weight[0] = 0  # a channel that is off
    found = quantize(weight)
    assert (found.codes.dtype, found.scales.shape) == (np.int8, (rows, 1))
    assert found.codes.min() >= -127
    assert (np.abs(found.codes * found.scales - weight) <= 0.501 * found.scales).all()
    assert (np.abs(found.codes[1:]).max(axis=1) == 127).all() if rows > 1 else not found.codes.any()


@given(st.floats(1e-3, 1e4))
def test_a_range_has_256_levels_of_which_one_is_zero(largest):
    low, high = symmetric_range(largest)
    step = (high - low) / 255
    assert (low / step, high / step) == pytest.approx((-128, 127))


@given(SEEDS, st.floats(0, 1))
def test_smoothing_changes_no_product(seed, strength):
    x, weight = draw(seed, 5, 8), draw(seed + 1, 3, 8)
    factors = smoothing(np.abs(x).max(axis=0), weight, strength)
    np.testing.assert_allclose((x / factors) @ (weight * factors).T, x @ weight.T, rtol=1e-3, atol=1e-3)


def test_smoothing_makes_both_sides_alike_where_one_channel_is_large():
    x, weight = np.ones((4, 8), np.float32), np.ones((3, 8), np.float32)
    x[:, 2] = 100
    factors = smoothing(np.abs(x).max(axis=0), weight)
    assert (x / factors).max() / (x / factors).min() == pytest.approx(10)
    assert (weight * factors).max() / (weight * factors).min() == pytest.approx(10)
    np.testing.assert_allclose(smoothing(np.abs(x).max(axis=0), weight, 0), 1)
