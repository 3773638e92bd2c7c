"""Log-mel features in NumPy, the encoder's input on every backend."""

from __future__ import annotations

import functools

import numpy as np

from labsupport.speech.audio import SAMPLE_RATE

HOP = 160  # samples: one frame each 10 ms
FFT = 400  # samples: each frame is computed from 25 ms
WINDOW_FRAMES = 3000  # 30 s, the only length that the encoder takes
_BLOCK = 3000  # frames transformed at a time, so that hours of audio need no gigabytes


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    linear, log = 3.0 * hz / 200.0, 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) * (27.0 / np.log(6.4))
    return np.where(hz < 1000.0, linear, log)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))


@functools.cache
def mel_filters(mels: int) -> np.ndarray:
    """Triangular filters from FFT bins to mel bands, each of equal area: (mels, 201) float64.

    Source: Slaney 1998, Auditory Toolbox; the filters that Whisper was trained with.
    """
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)
    corners = mel_to_hz(np.linspace(0, hz_to_mel(np.array(SAMPLE_RATE / 2)), mels + 2))
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    triangles = np.maximum(0, np.minimum(rise, fall))
    return triangles * (2.0 / (corners[2:] - corners[:-2]))[:, None]


def power_spectrum(samples: np.ndarray) -> np.ndarray:
    """(n,) float64 samples, padded at both ends -> (201, frames) energy in each frequency bin"""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT)[::HOP]  # (frames, 400)
    hann = np.hanning(FFT + 1)[:-1]  # the periodic window
    blocks = [np.abs(np.fft.rfft(frames[i : i + _BLOCK] * hann)) ** 2 for i in range(0, len(frames), _BLOCK)]
    return np.concatenate(blocks).T  # (201, frames)


def log_mel(samples: np.ndarray, mels: int = 80) -> np.ndarray:
    """Log-mel features of a whole recording.

    Args:
        samples: (n,) float32, mono, 16 kHz; padded with silence to at least 30 s.
        mels: 80, or 128 for large-v3 and its turbo.

    Returns:
        (mels, frames) float32, at least 3000 frames of 10 ms; the loudest 80 dB, scaled to about -1..1.

    Source: Radford et al. 2022, section 2.2; equal to transformers' WhisperFeatureExtractor.
    """
    silence = max(0, WINDOW_FRAMES * HOP - len(samples))
    padded = np.pad(np.pad(samples, (0, silence)).astype(np.float64), FFT // 2, mode="reflect")
    energy = mel_filters(mels) @ power_spectrum(padded)[:, :-1]  # (mels, frames)
    log = np.log10(np.maximum(energy, 1e-10))
    return ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


def window(mel: np.ndarray, seek: int) -> np.ndarray:
    """The 3000 frames from frame `seek` on: (mels, 3000), filled with zeros past the end."""
    part = mel[:, seek : seek + WINDOW_FRAMES]
    return np.pad(part, ((0, 0), (0, WINDOW_FRAMES - part.shape[1])))
