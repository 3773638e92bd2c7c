"""The log-mel features against transformers' own."""

from __future__ import annotations

import errno
import functools
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from labsupport.base.errors import FolderError
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


# --- block by block --------------------------------------------------------------------------------------------------


def noise(length: int, seed: int) -> np.ndarray:
    """Noise that gets louder and softer, so that no two frames are alike."""
    loudness = 10 ** np.interp(np.arange(length), np.linspace(0, length, 7), [-1, -3, 0, -5, -1, -2, -0.3])
    return (np.random.default_rng(seed).uniform(-1, 1, length) * loudness).astype(np.float32)


def feed(samples: np.ndarray, cuts: list[int] | range, mels: int = 80) -> features.LogMel:
    recording = features.LogMel(mels)
    for block in np.split(samples, sorted(cuts)):
        recording.feed(block)
    recording.finish()
    return recording


# around the reflected ends, a window of 30 s, and blocks of 5 s with the overlap of their frames
lengths = st.one_of(
    st.integers(0, 450),
    st.integers(479_500, 481_000),
    st.integers(-3, 3).flatmap(lambda off: st.sampled_from([80_000, 560_000, 560_040, 560_240]).map(lambda n: n + off)),
    st.integers(0, 700_000),
)


@given(lengths, st.lists(st.integers(0, 700_000), max_size=5), st.sampled_from([80, 128]))
@settings(max_examples=25, deadline=None)
def test_any_cut_into_blocks_gives_transformers_features(length, cuts, mels):
    samples = noise(length, length)
    recording = feed(samples, cuts, mels)
    assert recording.frames == max(1, length // features.HOP)
    assert np.abs(recording.whole() - reference(samples, mels)).max() < 1e-5


@pytest.mark.parametrize("length", [1, 150, 401, 2000])
def test_blocks_of_one_sample_give_the_same_features(length):
    samples = noise(length, 0)
    assert np.array_equal(feed(samples, range(length)).whole(), features.log_mel(samples))


@given(st.integers(0, 7000), st.one_of(st.none(), st.integers(0, 7000)))
@settings(max_examples=25, deadline=None)
def test_a_window_is_its_part_of_the_whole_and_zeros_after_its_end(seek, end):
    whole = recording_of_40_s().whole()
    expected = features.window(whole[:, : max(seek, whole.shape[1] if end is None else end)], seek)
    assert np.array_equal(recording_of_40_s().window(seek, end), expected)
    assert expected.dtype == np.float32


@functools.cache
def recording_of_40_s() -> features.LogMel:
    return feed(noise(40 * 16_000 + 77, 1), [])


def test_a_window_is_scaled_by_the_loudest_of_the_whole_recording():
    samples = np.concatenate([noise(40 * 16_000, 2) * 1e-3, noise(5 * 16_000, 3)]).astype(np.float32)
    first = feed(samples, []).window(0)
    assert np.abs(first - reference(samples, 80)[:, :3000]).max() < 1e-5
    assert np.abs(first - features.log_mel(samples[: 30 * 16_000])).max() > 0.5


def peak_of(seconds: int) -> int:
    """Bytes that Python allocates at most for the features of so much noise, read by window."""
    block = noise(10 * 16_000, 4)
    tracemalloc.start()
    try:
        recording = features.LogMel()
        for _ in range(seconds // 10):
            recording.feed(block)
        recording.finish()
        for seek in range(0, recording.frames, features.WINDOW_FRAMES):
            recording.window(seek)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_recording_five_times_as_long_needs_no_more_memory():
    peak_of(10)  # the filters are made once
    short, long = peak_of(200), peak_of(1000)
    assert abs(long - short) < 100_000  # 800 s of features are 25.6 MB
    assert long < 30e6


def test_a_full_disk_is_an_error_that_names_the_variable(monkeypatch):
    recording = features.LogMel()

    def refuse(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording._stored, "write", refuse)
    with pytest.raises(FolderError, match=r"(?s)No space left.*TMPDIR"):
        recording.feed(noise(10 * 16_000, 5))
