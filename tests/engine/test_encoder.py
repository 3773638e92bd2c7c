"""The encoder's graph: torch's output, for windows of any length, and next to it in eight bits."""

from __future__ import annotations

import numpy as np
import pytest
from exact_engine import exact_model
from small_whisper import SMALL

from labsupport.engine import loading
from labsupport.speech import features
from labsupport.whisper import torch_model


@pytest.mark.parametrize("frames", [60, 34, 2])
def test_windows_of_any_even_length_are_encoded_as_by_torch(frames):
    mels = np.random.default_rng(0).normal(size=(2, 80, frames)).astype(np.float32)
    expected = torch_model.load_model(SMALL).encode(mels).numpy()
    np.testing.assert_allclose(exact_model(SMALL).encode(mels), expected, atol=1e-5)


@pytest.mark.weights
@pytest.mark.parametrize("seconds", [30, 11])
def test_in_eight_bits_the_output_is_torchs_but_for_rounding(tiny, narration, jfk, seconds):
    """A window full of speech, and one that is silent after it, where other channels are large."""
    sound = jfk if seconds == 11 else narration[: 30 * 16_000]
    mel = features.window(features.log_mel(sound), 0)[None]
    expected = tiny.ours.model.encode(mel).numpy()
    difference = loading.load_fast("tiny.en").model.encode(mel) - expected
    assert 1e-3 < np.linalg.norm(difference) / np.linalg.norm(expected) < 0.08
