"""Audio in: any common file becomes float32 mono samples at 16 kHz, and every bad input has its own error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport import paths
from labsupport.errors import LabError


SAMPLE_RATE = 16_000  # Hz, the one rate that every Whisper was trained on


class AudioError(LabError):
    """Something is wrong with an audio input; each kind of wrong is a subclass."""


class MissingAudio(AudioError):
    """There is no such file."""


class AudioIsFolder(AudioError):
    """The path is a folder."""


class AudioNotPermitted(AudioError):
    """The file may not be read by this user."""


class EmptyAudioFile(AudioError):
    """The file has no bytes."""


class NotAudio(AudioError):
    """The bytes are no audio format that can be decoded."""


class TruncatedAudio(AudioError):
    """The file promises more sound than it holds, or decoding breaks off before the end."""


class NoSamples(AudioError):
    """The format is fine, but there is not one sample of sound."""


class NonFiniteSamples(AudioError):
    """A sample is NaN or infinite."""


class BadSamples(AudioError):
    """An array that is no float32 vector of samples."""


class UnknownClip(AudioError):
    """No card in data/audio has this name."""


@dataclass(frozen=True)
class Clip:
    """A recording that the course ships, as its card describes it.

    Attributes:
        text: exactly what is said.
        seconds: length of the recording.
        sha256: of the file at `path`.
    """

    name: str
    path: Path
    text: str
    source: str
    licence: str
    sha256: str
    seconds: float
    language: str


def clips() -> list[Clip]:
    """Every clip that has a card in data/audio, by name."""
    return [_read_card(card) for card in sorted(paths.AUDIO.glob("*.toml"))]


def clip(name: str) -> Clip:
    """The clip called `name`; UnknownClip if no card has that name."""
    known = {each.name: each for each in clips()}
    if name not in known:
        raise UnknownClip(f"There is no clip called {name!r}.", where=paths.AUDIO, hint=f"Known: {', '.join(known)}.")
    return known[name]


def _read_card(card: Path) -> Clip:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    entry = tomllib.loads(card.read_text(encoding="utf-8"))
    fields = {key: entry[key] for key in ("name", "text", "source", "licence", "sha256", "seconds", "language")}
    return Clip(path=card.parent / entry["file"], **fields)


def windows(samples: np.ndarray, seconds: float = 30.0) -> list[np.ndarray]:
    """Cuts float32 `samples` (samples,) at 16 kHz into windows of `seconds`, in order.

    The last window is as short as what is left; nothing is dropped, padded or copied (the windows are views).
    Raises BadSamples for another shape or dtype and NoSamples for none; ValueError for a window under one sample.
    """
    check_samples(samples)
    size = round(seconds * SAMPLE_RATE)
    if size < 1:
        raise ValueError(f"a window of {seconds} s holds no sample at {SAMPLE_RATE} Hz")
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def check_samples(samples: np.ndarray) -> None:
    """Raises BadSamples unless `samples` is a float32 vector, NoSamples if it is empty."""
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
        found = f"{getattr(samples, 'dtype', type(samples).__name__)} {getattr(samples, 'shape', '')}".strip()
        raise BadSamples(f"Expected a float32 array of shape (samples,), got {found}.", hint="audio.read gives one.")
    if not len(samples):
        raise NoSamples("The array has no samples.")


def read(path: str | Path) -> np.ndarray:
    """Decodes an audio file into float32 samples (samples,), mono, 16 kHz, full scale at ±1."""
    import soundfile

    with soundfile.SoundFile(path) as sound:
        return _resample(sound.read(dtype="float32", always_2d=True).mean(axis=1), sound.samplerate)


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
