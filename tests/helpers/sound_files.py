"""Sound files of every format, as soundfile writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

FORMATS = {  # suffix: what soundfile calls it, and how far the decoded sine may be from the true one
    "u8.wav": ("WAV", "PCM_U8", 1e-2),
    "s16.wav": ("WAV", "PCM_16", 1e-4),
    "s24.wav": ("WAV", "PCM_24", 1e-6),
    "s32.wav": ("WAV", "PCM_32", 1e-6),
    "f32.wav": ("WAV", "FLOAT", 1e-6),
    "f64.wav": ("WAV", "DOUBLE", 1e-6),
    "ulaw.wav": ("WAV", "ULAW", 3e-2),
    "s16.flac": ("FLAC", "PCM_16", 1e-4),
    "s24.flac": ("FLAC", "PCM_24", 1e-6),
    "vorbis.ogg": ("OGG", "VORBIS", 3e-2),
    "opus.ogg": ("OGG", "OPUS", 5e-2),
    "l3.mp3": ("MP3", "MPEG_LAYER_III", 3e-2),
}


def sine(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def write(path: Path, samples, rate: int = 16_000, kind: str = "s16.wav", **how) -> Path:
    container, subtype, _ = FORMATS[kind]
    soundfile.write(path, samples, rate, format=container, subtype=subtype, **how)
    return path
