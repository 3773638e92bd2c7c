"""Mixing loses no channel to another of opposite sign, and else is the average; blocks resample as one piece."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.speech.mixing import SAMPLE_RATE, Mixer, Resampler

RATE = 8000


def voice(seconds: float = 3.0, pitch: float = 140.0) -> np.ndarray:
    """A vowel-like tone whose loudness rises and falls like syllables, float32 (samples,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    return (0.2 * tone * (0.55 - 0.45 * np.cos(2 * np.pi * 3 * time))).astype(np.float32)


def hiss(seed: int, level: float = 0.1, seconds: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * level).astype(np.float32)


def mix(*channels: np.ndarray) -> np.ndarray:
    return Mixer(len(channels), RATE).mix(np.stack(channels, 1))


def assert_same(found: np.ndarray, wanted: np.ndarray, part: float = 0.02) -> None:
    """Asserts that the error's energy is below `part` of the sound's."""
    assert found.dtype == np.float32
    assert np.square(found - wanted).sum() < part * np.square(wanted).sum()


def test_one_channel_stays_as_it_is():
    np.testing.assert_array_equal(mix(voice()), voice())


@pytest.mark.parametrize("other", [voice(), 0.3 * voice(), hiss(1), voice(pitch=223.0)])
def test_what_does_not_cancel_is_averaged(other):
    np.testing.assert_allclose(mix(voice(), other), (voice() + other) / 2, atol=1e-6)


@pytest.mark.parametrize("factor", [-1.0, -0.8, -0.3])
def test_opposite_phases_do_not_cancel(factor):
    wanted = voice() * (1 - factor) / 2
    np.testing.assert_allclose(mix(voice(), factor * voice()), wanted, atol=1e-6)


def test_opposite_phases_in_noise_do_not_cancel():
    noisy = [voice() + hiss(1), -voice() + hiss(2)]
    np.testing.assert_allclose(mix(*noisy), (noisy[0] - noisy[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.25, 0.73, 1.0])
def test_phases_that_are_opposite_in_some_stretches_do_not_cancel(seconds):
    flips = (-1.0) ** (np.arange(3 * RATE) // round(seconds * RATE))
    assert_same(mix(voice(), (voice() * flips).astype(np.float32)), voice(), 0.12)


def test_the_sign_holds_in_the_pauses():
    gaps = np.repeat(np.tile([1, 0], 6), RATE // 4).astype(np.float32)
    speech = voice() * gaps
    noisy = [speech + hiss(1, 1e-3), -speech + hiss(2, 1e-3)]
    np.testing.assert_allclose(mix(*noisy)[RATE:], ((noisy[0] - noisy[1]) / 2)[RATE:], atol=1e-6)


def test_a_silent_channel_does_not_make_the_other_quiet():
    silent = np.zeros_like(voice())
    for channels in ([voice(), silent], [silent, voice()], [silent, silent, voice(), silent, silent, silent]):
        np.testing.assert_allclose(mix(*channels), voice(), atol=1e-6)
    least = hiss(1, 1 / 32768)  # the last bit's noise
    np.testing.assert_allclose(mix(voice(), least), voice(), atol=1e-3)


def test_a_channel_that_speaks_later_is_not_lost():
    late = voice().copy()
    late[: RATE * 2] = 0
    mixed = mix(hiss(1), late)
    np.testing.assert_allclose(mixed, (hiss(1) + late) / 2, atol=1e-6)


def test_six_channels_with_opposite_ones_do_not_cancel():
    music = hiss(3)
    channels = [music, music, voice(), np.zeros_like(music), -music, -music]
    np.testing.assert_allclose(mix(*channels), (4 * music + voice()) / 5, atol=1e-6)


def test_64_channels_of_any_sign_do_not_cancel():
    signs = np.random.default_rng(5).choice([-1, 1], 64)
    assert_same(signs[0] * mix(*(sign * voice(1) for sign in signs)), voice(1), 1e-9)


def test_silence_stays_silence():
    assert not mix(np.zeros(100, np.float32), np.zeros(100, np.float32)).any()


def test_huge_values_do_not_overflow():
    assert np.isfinite(mix(1e30 * voice(1), -1e30 * voice(1))).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40))
def test_blocks_of_whole_stretches_mix_as_one_piece(stretches):
    flips = (-1.0) ** (np.arange(3 * RATE) // 6000)
    frames = np.stack([voice(), voice() * flips + hiss(1)], 1).astype(np.float32)
    mixer, size = Mixer(2, RATE), stretches * RATE // 10
    parts = [mixer.mix(frames[start : start + size]) for start in range(0, len(frames), size)]
    np.testing.assert_allclose(np.concatenate(parts), Mixer(2, RATE).mix(frames), atol=1e-6)


# --- rates -----------------------------------------------------------------------------------------------------------


def resample(samples: np.ndarray, rate: int, size: int) -> np.ndarray:
    resampler = Resampler(rate)
    parts = [resampler.feed(samples[start : start + size]) for start in range(0, len(samples), size)]
    return np.concatenate([*parts, resampler.finish()])


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000, 192_000, 768_000]), st.integers(100, 5000))
def test_blocks_resample_as_one_piece(rate, size):
    samples = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    np.testing.assert_array_equal(resample(samples, rate, size), soxr.resample(samples, rate, SAMPLE_RATE, "HQ"))


@pytest.mark.parametrize("rate", [1, 7, 999, 16_000, 44_100, 767_999, 768_000])
def test_one_sample_gives_at_least_one(rate):
    found = resample(np.ones(1, np.float32), rate, 1)
    assert len(found) == max(1, round(SAMPLE_RATE / rate))
    assert np.isfinite(found).all()
