"""Calibration sees what transformers' layers read; smoothing leaves the encoder what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_engine import exact_encoder
from small_whisper import SMALL
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from labsupport.engine.calibration import calibrate, channel_maxima, smooth
from labsupport.engine.weights import read_tensors

MELS = np.random.default_rng(0).normal(size=(3, 80, 60)).astype(np.float32)
LAYER = "encoder.layers.0"
HOOKED = {"qkv": "self_attn.q_proj", "out": "self_attn.out_proj", "fc1": "fc1", "fc2": "fc2"}


@pytest.fixture(scope="module")
def tensors():
    rng, found = np.random.default_rng(1), read_tensors(SMALL)
    return {
        name: (tensor + rng.normal(scale=0.2, size=tensor.shape)).astype(np.float32) for name, tensor in found.items()
    }


@pytest.fixture(scope="module")
def maxima(tensors):
    return channel_maxima(SMALL.config, tensors, MELS)


def test_the_maxima_are_those_of_transformers_inputs(tensors, maxima):
    encoder = WhisperEncoder(WhisperConfig(**SMALL.config.to_hf())).eval()
    names = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    encoder.load_state_dict({name.removeprefix("encoder."): torch.tensor(each) for name, each in names.items()})
    seen: dict[str, list[np.ndarray]] = {part: [] for part in HOOKED}
    for part, name in HOOKED.items():
        module = encoder.layers[0].get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, part=part: seen[part].append(args[0].detach().abs().numpy()))
    with torch.inference_mode():
        found = encoder(torch.tensor(MELS)).last_hidden_state
    np.testing.assert_allclose(maxima["encoder_out"], found.abs().amax((0, 1)), rtol=1e-3)
    assert maxima.keys() == {"encoder_out", *(f"{LAYER}.{part}" for part in HOOKED)}
    for part, inputs in seen.items():
        np.testing.assert_allclose(maxima[f"{LAYER}.{part}"], np.concatenate(inputs).max(axis=(0, 1)), rtol=1e-3)


def test_smoothing_changes_weights_and_not_what_comes_out(tensors, maxima):
    smoothed, _ = smooth(SMALL.config, tensors, maxima)
    before, after = (exact_encoder(SMALL.config, each)([MELS])[0] for each in (tensors, smoothed))
    np.testing.assert_allclose(after, before, atol=1e-4)
    changed = {name for name in tensors if not np.array_equal(tensors[name], smoothed[name])}
    assert {f"{LAYER}.fc1.weight", f"{LAYER}.self_attn.v_proj.bias", f"{LAYER}.self_attn_layer_norm.bias"} < changed
    assert not any("decoder" in name or "fc2" in name for name in changed)


def test_the_new_maxima_are_those_of_the_smoothed_encoder(tensors, maxima):
    smoothed, expected = smooth(SMALL.config, tensors, maxima)
    found = channel_maxima(SMALL.config, smoothed, MELS)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-3)


def test_the_second_layer_of_a_feed_forward_net_stays_as_it_is(tensors):
    _, ranges = calibrate(SMALL.config, tensors, MELS)
    assert ranges.keys() == {"encoder_out", *(f"{LAYER}.{part}" for part in ("qkv", "out", "fc1"))}
    assert all(-low > high > 0 for low, high in ranges.values())
