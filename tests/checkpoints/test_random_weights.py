"""Names, shapes and random values of a Whisper's tensors, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_hub import SMALL
from transformers import WhisperConfig, WhisperForConditionalGeneration

from labsupport.checkpoints import random_weights
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.resolve import find_checkpoint


@pytest.mark.parametrize("size", ["tiny.en", "base", "large-v3-turbo"])
def test_tensors_and_parameters_are_those_of_transformers(size):
    with torch.device("meta"):
        theirs = WhisperForConditionalGeneration(WhisperConfig(**SIZES[size].to_hf()))
    expected = {name: tuple(t.shape) for name, t in theirs.state_dict().items() if name != "proj_out.weight"}
    shapes = dict(random_weights.tensor_shapes(SIZES[size]))
    assert shapes == expected
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == sum(p.numel() for p in theirs.parameters())


def test_random_weights_follow_seed_and_name():
    one, same, other = (dict(random_weights.random_tensors(SMALL, seed)) for seed in (0, 0, 1))
    name = "model.decoder.layers.1.fc1.weight"
    assert np.array_equal(one[name], same[name])
    assert not np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], one[name.replace("layers.1", "layers.0")])
    assert one["model.decoder.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert all(array.dtype == np.float32 for array in one.values())


@pytest.mark.weights
def test_the_encoders_positions_are_whispers():
    positions = random_weights.sinusoids(1500, 384)
    real = dict(find_checkpoint("tiny.en").tensors())["model.encoder.embed_positions.weight"]
    assert np.abs(positions - real).max() < 1e-3  # the package keeps them in half precision
