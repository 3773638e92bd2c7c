"""Sounds in which nobody speaks, made by seeded generators: what recordings have between and behind the speech.

Each gives float64 samples (n,), mono, 16 kHz, of a root mean square of 1; `at_level` brings one to its loudness.
"""

from __future__ import annotations

import numpy as np

from labsupport.speech.audio import SAMPLE_RATE

C_MAJOR = (261.63, 329.63, 392.00), (220.00, 261.63, 329.63), (174.61, 220.00, 261.63), (196.00, 246.94, 293.66)  # Hz


def at_level(samples: np.ndarray, decibels: float) -> np.ndarray:
    """As float32 with this root mean square, in dB of full scale."""
    return (samples * 10 ** (decibels / 20)).astype(np.float32)


def add_noise(speech: np.ndarray, noise: np.ndarray, ratio: float) -> np.ndarray:
    """Speech (n,) with noise (n,) that is softer by `ratio` dB, over the whole of it: float32, scaled to fit ±1."""
    mixed = speech + at_level(noise, level(speech) - ratio)
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def level(samples: np.ndarray) -> float:
    """The root mean square in dB of full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def normalised(samples: np.ndarray) -> np.ndarray:
    return samples / np.sqrt(np.mean(np.square(samples)))


def times(n: int) -> np.ndarray:
    """Seconds of n samples."""
    return np.arange(n) / SAMPLE_RATE


def white(n: int, rng: np.random.Generator) -> np.ndarray:
    return normalised(rng.standard_normal(n))


def shaped(n: int, rng: np.random.Generator, gain: np.ndarray) -> np.ndarray:
    """Noise with this gain at each frequency of `np.fft.rfftfreq(n)`."""
    return normalised(np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * gain, n))


def speech_shaped(n: int, rng: np.random.Generator, speech: np.ndarray) -> np.ndarray:
    """Noise with the spectrum of this speech: many voices at once, of which nobody can be understood."""
    size = 1024
    frames = np.lib.stride_tricks.sliding_window_view(speech, size)[:: size // 2] * np.hanning(size)
    spectrum = np.sqrt(np.mean(np.abs(np.fft.rfft(frames)) ** 2, axis=0))  # (513,)
    return shaped(n, rng, np.interp(np.fft.rfftfreq(n), np.fft.rfftfreq(size), spectrum))


def hum(n: int, hertz: float = 50.0) -> np.ndarray:
    """The mains in a cable: a tone and its overtones."""
    return normalised(sum((np.sin(2 * np.pi * hertz * k * times(n) + k) / k for k in range(1, 10)), np.zeros(n)))


def chords(n: int, rng: np.random.Generator) -> np.ndarray:
    """Music of a kind: a chord of decaying tones each half second."""
    music, beat = np.zeros(n), SAMPLE_RATE // 2
    for start in range(0, n, beat):
        played = times(min(4 * beat, n - start))
        tones = [np.sin(2 * np.pi * k * pitch * played) / k for pitch in rng.choice(C_MAJOR) for k in range(1, 6)]
        music[start : start + len(played)] += np.exp(-2 * played) * np.sum(tones, axis=0)
    return normalised(music)


def breathing(n: int, rng: np.random.Generator) -> np.ndarray:
    """Bursts of soft noise, in and out each four seconds."""
    air = shaped(n, rng, np.exp(-(((np.fft.rfftfreq(n, 1 / SAMPLE_RATE) - 1000) / 800) ** 2)))
    return normalised(air * np.maximum(0.0, np.sin(np.pi * times(n))) ** 2)


def applause(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two hundred claps a second."""
    clap = np.exp(-np.arange(800) / 120)
    hall = np.zeros(n + len(clap))
    for start in rng.integers(0, n, 200 * n // SAMPLE_RATE):
        hall[start : start + len(clap)] += clap * rng.standard_normal(len(clap)) * rng.uniform(0.3, 1.0)
    return normalised(hall[:n])
