"""A recording as the decoder needs it: the log-mel of what is said, without the silence between, and the way back."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.features import HOP, WINDOW_FRAMES, LogMel
from labsupport.speech.segments import Span, SpeechDetector, find_speech
from labsupport.speech.text import Segment, Word

FRAME_SECONDS = HOP / SAMPLE_RATE  # a log-mel frame
SHORT_PAUSE = 0.3  # seconds: where a window may end without cutting a word
MUCH_QUIETER = 0.5  # of log-mel's scale: 20 dB


@dataclass(frozen=True)
class Recording:
    """A whole recording, however long: neither its samples nor all of its log-mel are held.

    The decoder counts frames of 10 ms along the speech alone, as if the rest had been cut out; `restore` gives the
    times of the recording back.

    mel: log-mel of all frames, scaled by the loudest moment.
    speech: spans that hold speech, in frames of the recording, in order.
    pauses: frames along the speech at which nobody speaks: a window may end there.
    samples: of the recording.
    """

    mel: LogMel
    speech: tuple[Span, ...]
    pauses: tuple[int, ...]
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    @cached_property
    def joints(self) -> np.ndarray:
        """Where each span begins along the speech, and where the last one ends: (spans + 1,) frames."""
        return np.cumsum([0, *(span.end - span.start for span in self.speech)])

    @property
    def frames(self) -> int:
        """Of speech."""
        return int(self.joints[-1])

    def windows(self, longest: int = WINDOW_FRAMES, at_silence: bool = False) -> list[Span]:
        """The speech in windows of at most 30 s, or `longest` frames, each up to the last pause that it can hold.

        at_silence: a window that is at least half full ends where silence was cut out. A segment that crossed it would
            have to be divided by the times of its words, which take time to find.
        """
        windows, start = [], 0
        while start < self.frames:
            longest_end = min(start + longest, self.frames)
            end = last_between(self.joints, start + longest // 2, longest_end) if at_silence else None
            if end is None and longest_end < self.frames:
                end = last_between(self.pauses, start, longest_end)
            end = end or longest_end
            windows.append(Span(start, end))
            start = end
        return windows

    def loud_windows(self, most: int) -> list[Span]:
        """At most so many of `windows`, spread over the recording, without those much quieter than the loudest."""
        windows = self.windows()
        levels = [self.level(window) for window in windows]
        loud = [window for window, level in zip(windows, levels, strict=True) if level > max(levels) - MUCH_QUIETER]
        places = np.linspace(0, len(loud) - 1, min(most, len(loud))).round().astype(int)
        return [loud[place] for place in places]

    def level(self, window: Span) -> float:
        """How loud the window's louder moments are, on log-mel's scale: a quarter of 1 is 10 dB."""
        frames = self.window(window)[:, : window.end - window.start].mean(axis=0)  # (frames,)
        return float(np.percentile(frames, 90))

    def is_blank(self, window: Span) -> bool:
        """Whether its log-mel is flat: zeros, as a muted microphone leaves, or 80 dB under the loudest moment.

        A detector never takes it for speech; without one, it is where Whisper invents most.
        """
        frames = self.window(window)[:, : window.end - window.start]
        return bool(frames.max() == frames.min())

    def window(self, window: Span) -> np.ndarray:
        """(mels, 3000) float32: at most 30 s along the speech, zeros after their end.

        A recording of less than 30 s of which nothing is cut out is followed by the silence of `LogMel` instead, as in
        training.
        """
        if self.speech == (Span(0, self.frames),) and window.end == self.frames == self.mel.frames:
            return self.mel.window(window.start)
        parts = []
        first = int(np.searchsorted(self.joints, window.start, side="right")) - 1
        last = int(np.searchsorted(self.joints[:-1], window.end))  # spans from here on begin after the window
        for span, joint in zip(self.speech[first:last], self.joints[first:last].tolist(), strict=True):
            shift = span.start - joint
            start, end = max(span.start, window.start + shift), min(span.end, window.end + shift)
            parts.append(self.mel.window(start, end)[:, : end - start])
        found = np.concatenate(parts, axis=1)  # (mels, frames)
        return np.pad(found, ((0, 0), (0, WINDOW_FRAMES - found.shape[1])))

    def along_speech(self, frames: Sequence[int]) -> tuple[int, ...]:
        """Frames of the recording, counted along the speech; those that were cut out are left out."""
        places = [(frame, np.searchsorted([span.start for span in self.speech], frame) - 1) for frame in frames]
        return tuple(
            int(self.joints[place]) + frame - self.speech[place].start
            for frame, place in places
            if place >= 0 and frame <= self.speech[place].end
        )

    # --- back to the recording's own time ---

    def restore(self, segment: Segment) -> list[Segment]:
        """The segment in seconds of the recording; in parts, where something was cut out between its words.

        segment: times in seconds along the speech; with the times of its words if it `crosses_joint`.
        """
        sides = [list(group) for _, group in itertools.groupby(segment.word_timings, key=self.span_of)]
        parts = [tuple(self.restore_word(word) for word in side) for side in sides]
        if len(parts) > 1:
            return [
                replace(segment, start=part[0].start, end=part[-1].end, text="".join(word.text for word in part),
                        word_timings=part)
                for part in parts
            ]  # fmt: skip
        place = self.span_of(segment.word_timings[0] if parts else segment)
        start, end = self.seconds_in(place, segment.start), self.seconds_in(place, segment.end)
        return [replace(segment, start=start, end=end, word_timings=parts[0] if parts else ())]

    def crosses_joint(self, start: float, end: float) -> bool:
        """Whether something was cut out between these seconds along the speech."""
        inner = self.joints[1:-1] * FRAME_SECONDS
        return bool(((inner > start) & (inner < end)).any())

    def span_of(self, timed: Segment | Word) -> int:
        """The number of the span in which the middle of a word or segment lies."""
        middle = (timed.start + timed.end) / 2 / FRAME_SECONDS
        return int(np.clip(np.searchsorted(self.joints, middle, side="right") - 1, 0, len(self.speech) - 1))

    def restore_word(self, word: Word) -> Word:
        place = self.span_of(word)
        return replace(word, start=self.seconds_in(place, word.start), end=self.seconds_in(place, word.end))

    def seconds_in(self, place: int, spoken: float) -> float:
        """Seconds of the recording for seconds along the speech, not outside of this span."""
        span = self.speech[place]
        frame = span.start + spoken / FRAME_SECONDS - float(self.joints[place])
        return round(min(max(frame, span.start), span.end) * FRAME_SECONDS, 2)


def last_between(places: Sequence[int] | np.ndarray, after: int, end: int) -> int | None:
    """The last of the sorted places that is after the one and not after the other."""
    last = bisect.bisect_right(places, end) - 1
    return int(places[last]) if last >= 0 and places[last] > after else None


def analyse(samples: np.ndarray | Iterable[np.ndarray], mels: int, vad: bool) -> Recording:
    """Goes through the sound once, block by block.

    Args:
        samples: (n,) float32, mono, 16 kHz, or blocks of them in order.
        mels: bands of the log-mel, 80 or 128.
        vad: find where somebody speaks; without it all of the recording counts as speech.
    """
    mel, detector, total = LogMel(mels), SpeechDetector() if vad else None, 0
    for block in [samples] if isinstance(samples, np.ndarray) else samples:
        total += len(block)
        mel.feed(block)
        if detector is not None:
            detector.feed(block)
    mel.finish()
    if detector is None:
        return Recording(mel, (Span(0, max(1, total // HOP)),), (), total)
    probabilities = detector.finish()
    speech = tuple(to_frames(find_speech(probabilities, total), total))
    phrases = to_frames(find_speech(probabilities, total, min_silence=SHORT_PAUSE, pad=SHORT_PAUSE / 2), total)
    recording = Recording(mel, speech, (), total)
    return replace(recording, pauses=recording.along_speech([phrase.end for phrase in phrases]))


def to_frames(spans: Sequence[Span], samples: int) -> list[Span]:
    """Spans of samples -> spans of whole frames inside the recording, none of them empty"""
    frames = [Span(span.start // HOP, min(-(-span.end // HOP), samples // HOP)) for span in spans]
    return [span for span in frames if span.start < span.end]
