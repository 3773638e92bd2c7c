"""The log-mel features against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from labsupport.speech import features


def reference(samples: np.ndarray, mels: int) -> np.ndarray:
    """transformers' NumPy path, in float64 inside; its torch path computes in float32 and is 4e-5 away from it."""
    silence = max(0, 480_000 - len(samples))
    padded = np.pad(samples, (0, silence))[None]
    return WhisperFeatureExtractor(feature_size=mels)._np_extract_fbank_features(padded, device="cpu")[0]


@pytest.mark.parametrize("mels", [80, 128])
def test_features_equal_transformers(jfk, mels):
    assert np.abs(features.log_mel(jfk, mels) - reference(jfk, mels)).max() < 1e-5


def test_features_of_a_long_recording_equal_transformers(narration):
    ours = features.log_mel(narration)
    assert ours.shape == (80, len(narration) // features.HOP)
    assert np.abs(ours - reference(narration, 80)).max() < 1e-5


def test_features_equal_transformers_default_path(jfk):
    theirs = WhisperFeatureExtractor()(jfk, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert np.abs(features.log_mel(jfk) - theirs).max() < 1e-4


@pytest.mark.parametrize("mels", [80, 128])
def test_mel_filters_equal_transformers(mels):
    theirs = WhisperFeatureExtractor(feature_size=mels).mel_filters.T
    assert np.abs(features.mel_filters(mels) - theirs).max() < 1e-12


@given(st.integers(1, 70_000), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_any_length_gives_a_whole_window_of_finite_features(length, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    mel = features.log_mel(samples)
    assert mel.shape == (80, 3000)
    assert mel.dtype == np.float32
    assert np.isfinite(mel).all()
    assert mel.max() - mel.min() <= 2.0 + 1e-5  # 80 dB over 4


def test_silence_gives_finite_features():
    assert np.isfinite(features.log_mel(np.zeros(16_000, np.float32))).all()


def test_window_past_the_end_is_filled_with_zeros():
    mel = np.ones((80, 4000), np.float32)
    part = features.window(mel, 3000)
    assert part.shape == (80, 3000)
    assert part[:, :1000].all()
    assert not part[:, 1000:].any()
