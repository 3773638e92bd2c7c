"""Log-mel features in NumPy, the encoder's input on every backend."""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path

import numpy as np

from labsupport.base.paths import using_folder
from labsupport.speech.audio import SAMPLE_RATE

HOP = 160  # samples: one frame each 10 ms
FFT = 400  # samples: each frame is computed from 25 ms
WINDOW_FRAMES = 3000  # 30 s, the only length that the encoder takes
EDGE = FFT // 2  # samples that are reflected at both ends, so that a frame lies around its time
OVERLAP = FFT - HOP  # samples that a frame has in common with the next
BLOCK = 500  # frames that are transformed at a time: 5 s
IN_MEMORY = 4 * 2**20  # bytes of features: two minutes


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
    spectrum = np.fft.rfft(frames * hann)  # (frames, 201)
    return (spectrum.real**2 + spectrum.imag**2).T  # (201, frames)


class LogMel:
    """Log-mel features of a recording that is fed block by block; equal to `log_mel` of the whole for any blocks.

    Of the sound itself it holds 5 s, and the features in float32 up to `IN_MEMORY`. Those of a longer recording are in
    a temporary file without a name, 115 MB an hour with 80 mels, which is read window by window: not mapped, for mapped
    pages count as the process's memory. The memory that this takes is the same for an hour and for twelve.

    Args:
        mels: 80, or 128 for large-v3 and its turbo.

    Raises:
        FolderError: the folder for temporary files, which `TMPDIR` names, is full or cannot be written to.
    """

    def __init__(self, mels: int = 80):
        self.mels = mels
        self.samples = 0  # fed so far
        # log10 of the energy: (frames, mels) float32; closed when nobody needs the recording any more
        self._stored = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._count = 0  # frames that are stored
        self._loudest = -math.inf
        self._buffer = np.zeros(BLOCK * HOP + OVERLAP)  # float64, what a block of frames is computed from
        self._filled = EDGE  # the recording begins with its own reflection

    @property
    def frames(self) -> int:
        """Frames that hold sound, of what was fed: at least 1. Those of silence that `finish` adds do not count."""
        return max(1, self.samples // HOP)

    def feed(self, block: np.ndarray) -> None:
        """The recording's next samples: (n,) float32, mono, 16 kHz, any n."""
        self.samples += len(block)
        self._write(block)

    def finish(self) -> None:
        """Ends the recording, once: silence fills it up to 30 s. `window` and `whole` may be called from now on."""
        self._write(np.zeros(max(0, WINDOW_FRAMES * HOP - self.samples)))
        reflected = self._buffer[self._filled - 2 :: -1][: EDGE - HOP]  # all of it that the last frame reaches
        self._write(reflected.copy())
        self._transform()

    def window(self, seek: int, end: int | None = None) -> np.ndarray:
        """The 3000 frames from frame `seek` on: (mels, 3000) float32, zeros from frame `end` on, or past the last.

        They are scaled by the loudest of the whole recording, as `log_mel` scales them.
        """
        return window(self._scale(seek, min(seek + WINDOW_FRAMES, self._count if end is None else end)), 0)

    def whole(self) -> np.ndarray:
        """Every frame: (mels, frames) float32, at least 3000 of them."""
        return self._scale(0, self._count)

    def _write(self, samples: np.ndarray) -> None:
        while len(samples):
            part = samples[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            samples = samples[len(part) :]
            if self._filled == len(self._buffer):
                self._transform()

    def _transform(self) -> None:
        """Computes the frames that lie in the buffer, and leaves the samples that the next one begins with."""
        frames = (self._filled - OVERLAP) // HOP
        if frames <= 0:
            return
        if not self._count:
            self._buffer[:EDGE] = self._buffer[2 * EDGE : EDGE : -1]
        energy = mel_filters(self.mels) @ power_spectrum(self._buffer[: frames * HOP + OVERLAP])  # (mels, frames)
        log = np.log10(np.maximum(energy, 1e-10)).astype(np.float32)  # (mels, frames)
        with using_folder(Path(tempfile.gettempdir()), "TMPDIR"):
            self._stored.write(log.T.tobytes())
        self._count, self._loudest = self._count + frames, max(self._loudest, float(log.max()))
        rest = self._buffer[frames * HOP : self._filled].copy()
        self._buffer[: len(rest)], self._filled = rest, len(rest)

    def _scale(self, start: int, stop: int) -> np.ndarray:
        """The frames from `start` up to `stop`, the loudest 80 dB scaled to about -1..1: (mels, stop - start)"""
        frame = 4 * self.mels  # bytes
        self._stored.seek(start * frame)
        found = self._stored.read(max(0, min(stop, self._count) - start) * frame)
        log = np.frombuffer(found, np.float32).reshape(-1, self.mels).T  # (mels, stop - start)
        return np.ascontiguousarray((np.maximum(log, self._loudest - 8.0) + 4.0) / 4.0)


def log_mel(samples: np.ndarray, mels: int = 80) -> np.ndarray:
    """Log-mel features of a whole recording.

    Args:
        samples: (n,) float32, mono, 16 kHz; padded with silence to at least 30 s.
        mels: 80, or 128 for large-v3 and its turbo.

    Returns:
        (mels, frames) float32, at least 3000 frames of 10 ms; the loudest 80 dB, scaled to about -1..1.

    Source: Radford et al. 2022, section 2.2; equal to transformers' WhisperFeatureExtractor.
    """
    recording = LogMel(mels)
    recording.feed(samples)
    recording.finish()
    return recording.whole()


def window(mel: np.ndarray, seek: int) -> np.ndarray:
    """The 3000 frames from frame `seek` on: (mels, 3000), filled with zeros past the end."""
    part = mel[:, seek : seek + WINDOW_FRAMES]
    return np.pad(part, ((0, 0), (0, WINDOW_FRAMES - part.shape[1])))
