"""Where speech is in a recording: a small network's probability for each 32 ms, and the spans that follow from them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import NotAvailable
from labsupport.speech.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FRAME = 512  # samples: one probability each 32 ms
CONTEXT = 64  # samples before a frame, which the network sees with it
STATE = (1, 1, 128)  # of its LSTM, twice: h and c
BATCH = 256  # frames in one call: 8 s
NETWORK = "faster_whisper/assets/silero_vad_v6.onnx"

# The network misses speech that is softer than some -55 dB or goes beyond full scale. Peaks of its frames:
QUIET, LOUD = 10 ** (-30 / 20), 1.0  # below the one they are amplified, above the other attenuated
SOFTEST = 10 ** (-90 / 20)  # amplified no more below this, the last bit of 16
OFFSET = 0.02  # a constant beyond this is subtracted: it hides speech, too
# dB by which the level falls in a minute: slowly, so that the network gets loud speech as it is; quickly, so that it
# finds soft speech soon after it, where it missed all. A second or so is still missed, until its LSTM has forgotten.
RELEASES = (15, 3000)

SPLIT_SILENCE = 1568  # samples: 98 ms; speech that is too long is split at a silence of more


@dataclass(frozen=True, order=True)
class Span:
    """Samples from `start` up to `end`, at 16 kHz."""

    start: int
    end: int


# --- probabilities ---------------------------------------------------------------------------------------------------


class SpeechDetector:
    """Silero's network for voice activity, fed block by block: it holds 8 s of sound and the probabilities.

    A frame of 512 samples goes through an STFT, convolutions, and an LSTM whose state is carried on. The network alone
    gets very soft frames amplified, and those beyond full scale attenuated: see `choose_gains`. It goes over the sound
    once for each of `releases`, and the higher probability counts.

    Raises:
        NotAvailable: ONNX Runtime or the packaged network is missing.

    Source: silero-vad, version 6, as faster-whisper packages it.
    """

    def __init__(self, releases: Sequence[float] = RELEASES) -> None:
        self._session = open_network()
        self._releases = releases
        self._start()

    def _start(self) -> None:
        self._passes = [Pass(release) for release in self._releases]
        self._buffer = np.zeros(CONTEXT + BATCH * FRAME, np.float32)
        self._filled = CONTEXT  # silence comes before the first frame
        self._probabilities: list[np.ndarray] = []

    def feed(self, block: np.ndarray) -> None:
        """The recording's next samples: (n,) float32, mono, 16 kHz, any n."""
        while len(block):
            part = block[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            block = block[len(part) :]
            if self._filled == len(self._buffer):
                self._run()

    def finish(self) -> np.ndarray:
        """The probability of speech for each 512 samples, silence filling up the last of them: (frames,) float32.

        Afterwards the detector is ready for another recording.
        """
        self.feed(np.zeros(-(self._filled - CONTEXT) % FRAME, np.float32))
        if self._filled > CONTEXT:
            self._run()
        probabilities = np.concatenate([np.empty(0, np.float32), *self._probabilities])
        self._start()
        return probabilities

    def _run(self) -> None:
        """Takes the frames in the buffer, and leaves the end of the last one as context for the next."""
        sound = self._buffer[: self._filled]
        offset = sound.mean()  # of a recorder
        centred = sound - offset if abs(offset) > OFFSET else sound
        windows = np.lib.stride_tricks.sliding_window_view(centred, CONTEXT + FRAME)[::FRAME]  # (frames, 576)
        with ThreadPoolExecutor(len(self._passes)) as pool:  # the network runs on one thread
            found = list(pool.map(lambda each: self._run_pass(windows, each), self._passes))
        self._probabilities.append(np.max(found, axis=0))
        self._buffer[:CONTEXT] = sound[-CONTEXT:]
        self._filled = CONTEXT

    def _run_pass(self, windows: np.ndarray, way: Pass) -> np.ndarray:
        """(frames, 576) float32 -> (frames,); level and LSTM go on from the frames before."""
        levels = follow_level(measure_peaks(windows[:, CONTEXT:]), way.level, way.release)  # (frames,)
        inputs = {"input": apply_gains(windows, choose_gains(levels)), "h": way.state[0], "c": way.state[1]}
        probabilities, *way.state = self._session.run(None, inputs)
        way.level = float(levels[-1])
        return probabilities


@dataclass
class Pass:
    """One way over the sound: how far it has come.

    release: dB by which its level falls in a minute.
    state: of the LSTM, h and c.
    """

    release: float
    level: float = 0.0
    state: list[np.ndarray] = field(default_factory=lambda: [np.zeros(STATE, np.float32)] * 2)


def open_network() -> InferenceSession:
    """Silero's network on one thread: a frame is too little work for two. NotAvailable where something is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotAvailable("ONNX Runtime is not installed.", hint="Run ./lab setup, or transcribe with --no-vad.")
    return read_network(find_network())


@functools.cache
def read_network(path: Path) -> InferenceSession:
    """One session for all detectors: several threads may run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def find_network() -> Path:
    """Silero's network in the package faster-whisper, which is not imported: it would bring CTranslate2."""
    hint = "Run ./lab setup, or transcribe with --no-vad."
    try:
        path = Path(str(importlib.metadata.distribution("faster-whisper").locate_file(NETWORK)))
    except importlib.metadata.PackageNotFoundError as error:
        what = "The package faster-whisper, which holds the network that finds speech, is not installed."
        raise NotAvailable(what, hint=hint) from error
    if not path.is_file():
        what = "The installed faster-whisper does not hold the network that finds speech."
        raise NotAvailable(what, where=path, hint=hint)
    return path


def measure_peaks(frames: np.ndarray) -> np.ndarray:
    """How far each frame goes from its mean, which a recorder's constant offset moves: (frames, 512) -> (frames,)"""
    means = frames.mean(axis=1)
    return np.maximum(frames.max(axis=1) - means, means - frames.min(axis=1))


def follow_level(peaks: np.ndarray, before: float, release: float) -> np.ndarray:
    """A running level: it rises with a frame's peak at once, and falls slowly.

    Args:
        peaks: (frames,) of `measure_peaks`.
        before: the level at the frame before.
        release: dB by which it falls in a minute.
    """
    decibels = 20 * np.log10(np.maximum(np.append(before, peaks), SOFTEST))
    fallen = np.arange(len(decibels)) * (release / 60 * FRAME / SAMPLE_RATE)  # had nothing come after the first
    return 10 ** ((np.maximum.accumulate(decibels + fallen) - fallen)[1:] / 20)


def choose_gains(levels: np.ndarray) -> np.ndarray:
    """What brings levels (frames,) between `QUIET` and `LOUD`: (frames,).

    Noise that is amplified so is still no speech to the network: white noise at -60 dB gets at most 0.12.
    """
    return np.clip(levels, QUIET, LOUD) / levels


def apply_gains(windows: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """(frames, 576) samples as the network gets them: where there is a gain, without their mean, and amplified."""
    means = np.where(gains == 1.0, 0.0, windows.mean(axis=1))
    return ((windows - means[:, None]) * gains[:, None]).astype(np.float32)


# --- spans -----------------------------------------------------------------------------------------------------------


def find_speech(
    probabilities: np.ndarray,
    samples: int,
    threshold: float = 0.5,
    neg_threshold: float | None = None,
    min_speech: float = 0.0,
    min_silence: float = 2.0,
    pad: float = 0.4,
    longest: float = math.inf,
) -> list[Span]:
    """The spans that hold speech: in order, not overlapping, inside the recording.

    Args:
        probabilities: (frames,) as `SpeechDetector.finish` gives them.
        samples: of the recording.
        threshold: speech begins at a frame of at least this probability.
        neg_threshold: silence begins at a frame below this one, by default 0.15 lower; between the two, both go on.
        min_speech: seconds; shorter speech is left out.
        min_silence: seconds; shorter silence is part of the speech around it.
        pad: seconds added at both ends, or half the silence between two spans where that is less.
        longest: seconds; a longer span is split at its last silence of 0.1 s, or without one where it gets too long.

    Source: silero-vad, get_speech_timestamps, with the defaults of faster-whisper.
    """
    neg_threshold = max(threshold - 0.15, 0.01) if neg_threshold is None else neg_threshold
    padding = count_samples(pad)
    unpadded = max(0, longest * SAMPLE_RATE - FRAME - 2 * padding)
    runs = Runs(count_samples(min_speech), count_samples(min_silence), unpadded)
    for i, probability in enumerate(probabilities.tolist()):
        if probability >= threshold:
            runs.add_speech(i * FRAME)
        runs.limit_length(i * FRAME)
        if probability < neg_threshold:
            runs.add_silence(i * FRAME)
    return pad_spans(runs.finish(samples), samples, padding)


def count_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


@dataclass
class Runs:
    """Runs of speech, found frame by frame; every number is in samples, `here` is a frame's first.

    min_speech, min_silence, longest: see `find_speech`.
    start: of the run that goes on. silence: where silence has begun in it. split: where its last silence of more than
    `SPLIT_SILENCE` began, and resume: where speech went on after that one. None where there is none.
    """

    min_speech: int
    min_silence: int
    longest: float
    found: list[Span] = field(default_factory=list)
    start: int | None = None
    silence: int | None = None
    split: int | None = None
    resume: int | None = None

    def add_speech(self, here: int) -> None:
        self.silence = None
        if self.start is None:
            self.start = here
        elif self.split is not None and self.resume is None:
            self.resume = here

    def add_silence(self, here: int) -> None:
        if self.start is None:
            return
        self.silence = here if self.silence is None else self.silence
        if here - self.silence > SPLIT_SILENCE:
            self.split, self.resume = self.silence, None
        if here - self.silence >= self.min_silence:
            self._close(Span(self.start, self.silence), self.min_speech)

    def limit_length(self, here: int) -> None:
        """Ends a run that has become too long: at its last silence, from where speech may have gone on, or here."""
        if self.start is not None and here - self.start > self.longest:
            self._close(Span(self.start, here if self.split is None else self.split), 0, self.resume)

    def finish(self, samples: int) -> list[Span]:
        if self.start is not None:
            self._close(Span(self.start, samples), self.min_speech)
        return self.found

    def _close(self, run: Span, min_speech: int, start: int | None = None) -> None:
        if run.end - run.start > min_speech:
            self.found.append(run)
        self.start, self.silence, self.split, self.resume = start, None, None, None


def pad_spans(spans: Sequence[Span], samples: int, padding: int) -> list[Span]:
    """Makes each span longer by `padding` at both ends, but at most to the middle of the silence between two."""
    inner = [min(padding, (after.start - before.end) // 2) for before, after in itertools.pairwise(spans)]
    left, right = [padding, *inner], [*inner, padding]
    return [Span(max(0, span.start - left[i]), min(samples, span.end + right[i])) for i, span in enumerate(spans)]


def group_speech(spans: Sequence[Span], gap: float, longest: float = math.inf) -> list[Span]:
    """Merges neighbours whose pause is at most `gap` seconds, as long as they span at most `longest` seconds."""
    groups: list[Span] = []
    for span in spans:
        last = groups[-1] if groups else None
        if last and span.start - last.end <= gap * SAMPLE_RATE and span.end - last.start <= longest * SAMPLE_RATE:
            groups[-1] = Span(last.start, span.end)
        else:
            groups.append(span)
    return groups
