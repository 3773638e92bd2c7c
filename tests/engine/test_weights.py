"""Fused layers hold the checkpoint's weights one under the other."""

from __future__ import annotations

import numpy as np
import pytest
from small_whisper import SMALL

from labsupport.engine.weights import PARTS, Weights, read_tensors

LAYER = "decoder.layers.1"


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    found = read_tensors(SMALL)
    return {name: rng.normal(size=tensor.shape).astype(np.float32) for name, tensor in found.items()}


def test_all_tensors_are_read_in_float32(tensors):
    assert {"encoder.conv1.weight", "decoder.embed_tokens.weight"} < tensors.keys()
    assert all(tensor.dtype == np.float32 for tensor in read_tensors(SMALL).values())


def test_queries_keys_and_values_are_one_product_and_keys_have_no_bias(tensors):
    x = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    layer = Weights(tensors, int8=False).layer(f"{LAYER}.qkv")
    parts = np.split(x @ layer.weight.T + layer.bias, 3, axis=-1)
    for part, name in zip(parts, "qkv", strict=True):
        source = f"{LAYER}.self_attn.{name}_proj"
        expected = x @ tensors[f"{source}.weight"].T + tensors.get(f"{source}.bias", 0)
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-5)
    assert f"{LAYER}.self_attn.k_proj.bias" not in tensors


@pytest.mark.parametrize("part", [*PARTS, "vocabulary"])
def test_eight_bits_are_next_to_the_weights(tensors, part):
    name = part if part == "vocabulary" else f"{LAYER}.{part}"
    exact, rounded = (Weights(tensors, int8=int8).layer(name) for int8 in (False, True))
    assert np.abs(rounded.weight.codes * rounded.weight.scales - exact.weight).max() < np.abs(exact.weight).max() / 250
    assert (exact.bias is None) == (part == "vocabulary")


def test_only_calibrated_layers_round_their_inputs(tensors):
    weights = Weights(tensors, ranges={f"{LAYER}.fc1": (-1.0, 1.0)})
    assert weights.layer(f"{LAYER}.fc1").inputs == (-1.0, 1.0)
    assert weights.layer(f"{LAYER}.fc2").inputs is None
