"""Sounds without speech: how loud they are, and what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from labsupport.benchmarks import noises
from labsupport.speech.audio import SAMPLE_RATE

SECOND = SAMPLE_RATE
MAKERS = {
    "white": noises.white,
    "hum": lambda n, rng: noises.hum(n),
    "chords": noises.chords,
    "breathing": noises.breathing,
    "applause": noises.applause,
    "speech-shaped": lambda n, rng: noises.speech_shaped(n, rng, rng.standard_normal(SECOND)),
}


@pytest.mark.parametrize("name", MAKERS)
@given(st.integers(SECOND, 2 * SECOND), st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_a_noise_has_its_length_and_a_level_of_one_and_is_the_same_each_time(name, n, seed):
    made, again = (MAKERS[name](n, np.random.default_rng(seed)) for _ in range(2))
    assert made.shape == (n,)
    assert noises.level(made) == pytest.approx(0.0, abs=1e-6)
    assert np.array_equal(made, again)


@given(st.floats(-80, -10))
@settings(deadline=None)
def test_a_sound_gets_its_level(decibels):
    made = noises.at_level(noises.hum(SECOND), decibels)
    assert made.dtype == np.float32
    assert noises.level(made) == pytest.approx(decibels, abs=1e-3)


@given(st.floats(-50, 0), st.floats(-5, 40))
@settings(max_examples=20, deadline=None)
def test_noise_lies_so_much_below_speech_and_the_sum_inside_full_scale(loudness, ratio):
    rng = np.random.default_rng(0)
    speech, noise = noises.at_level(noises.chords(SECOND, rng), loudness), noises.white(SECOND, rng)
    mixed = noises.add_noise(speech, noise, ratio)
    assert np.abs(mixed).max() <= 1.0
    gains, *_ = np.linalg.lstsq(np.stack([speech, noise], axis=1).astype(np.float64), mixed, rcond=None)
    assert noises.level(gains[0] * speech) - noises.level(gains[1] * noise) == pytest.approx(ratio, abs=0.01)


def test_hum_has_the_mains_frequency_and_its_overtones():
    spectrum = np.abs(np.fft.rfft(noises.hum(SECOND, 60.0)))  # a bin each hertz
    assert sorted(np.argsort(spectrum)[-9:]) == [60 * k for k in range(1, 10)]


def test_speech_shaped_noise_has_the_spectrum_of_the_speech(jfk):
    noise = noises.speech_shaped(20 * SECOND, np.random.default_rng(0), jfk)
    spectra = [10 * np.log10(signal.welch(each, SAMPLE_RATE, nperseg=1024)[1]) for each in (jfk, noise)]
    differences = (spectra[0] - spectra[1])[5:-5]
    assert np.abs(differences - np.median(differences)).mean() < 1.0  # dB; the bands differ by 60
