"""Text while somebody speaks: what is stable is never taken back, what may still change is given beside it.

Whisper was trained on whole windows, so each step transcribes all sound since the last cut anew. LocalAgreement-2 calls
that part of the text stable on which two steps in a row agree: the second has heard more, and says the same.

Source: Macháček, Dabre and Bojar 2023, "Turning Whisper into Real-Time Transcription System" (whisper_streaming).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np

from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.text import Word
from labsupport.whisper.transcribe import Transcriber

STEP = 1.0  # seconds of new sound before the text is made again
LONGEST = 15.0  # seconds of sound from which on it is cut at the end of a stable sentence
FULL = 26.0  # seconds at which it is cut in any case: the window has 30
TAIL = 2.0  # seconds of silence that stay
CLOSE = 0.1  # seconds by which a word's time may differ from step to step
CONTEXT = 200  # characters of stable text before the cut that the model is given
REPEATED = 5  # words at most that a hypothesis says again from before the cut
SENTENCE_END = re.compile(r"""[.?!。？！]["')]*$""")


@dataclass
class Agreement:
    """LocalAgreement-2.

    stable: words that two hypotheses in a row have; it only grows.
    pending: the last hypothesis after them.
    """

    stable: list[Word] = field(default_factory=list)
    pending: list[Word] = field(default_factory=list)

    @property
    def end(self) -> float:
        """Seconds at which the stable text ends."""
        return self.stable[-1].end if self.stable else 0.0

    def update(self, hypothesis: Sequence[Word]) -> list[Word]:
        """Takes the next hypothesis, times in seconds of the recording; returns the words that are stable now."""
        new = self.drop_repeated([word for word in hypothesis if not self.stable or word.start > self.end - CLOSE])
        pairs = zip(self.pending, new, strict=False)
        agreed = len(list(takewhile(lambda pair: spelled(pair[0]) == spelled(pair[1]), pairs)))
        return self.accept(new, agreed)

    def accept(self, timings: list[Word], count: int) -> list[Word]:
        """Makes the first `count` of these words stable."""
        self.stable += timings[:count]
        self.pending = timings[count:]
        return timings[:count]

    def drop_repeated(self, timings: list[Word]) -> list[Word]:
        """Without the stable text's last words, where the hypothesis begins with them again."""
        if not timings or timings[0].start > self.end + 1.0:
            return timings
        for count in range(min(REPEATED, len(timings), len(self.stable)), 0, -1):
            if [spelled(word) for word in self.stable[-count:]] == [spelled(word) for word in timings[:count]]:
                return timings[count:]
        return timings


def spelled(word: Word) -> str:
    """The word without what changes from hypothesis to hypothesis: case and punctuation."""
    return re.sub(r"[^\w']", "", word.text).casefold() or word.text.strip()


@dataclass(frozen=True)
class Shown:
    """A stable word; and when it was first shown, and when it was stable, in seconds after it had been said."""

    word: Word
    first: float
    stable: float


@dataclass(frozen=True)
class Update:
    """What a step gives: the words that have become stable, and the text after them, which may still change."""

    stable: list[Shown]
    pending: str


@dataclass
class LiveTranscriber:
    """Turns sound that comes piece by piece into text.

    clock: seconds since the sound began, for the latency; by default the sound that was fed, as if computing took none.
    """

    transcriber: Transcriber
    language: str | None = None
    clock: Callable[[], float] | None = None
    agreement: Agreement = field(default_factory=Agreement)

    def __post_init__(self) -> None:
        self.sound = np.empty(0, np.float32)  # since the last cut
        self.offset = 0  # samples before it
        self.seen: list[tuple[str, float]] = []  # pending words, and when each was first shown at its place

    @property
    def fed(self) -> float:
        """Seconds of sound so far."""
        return (self.offset + len(self.sound)) / SAMPLE_RATE

    def update(self, samples: np.ndarray) -> Update:
        """Takes the next samples, (n,) float32, mono, 16 kHz, and makes the text after the last cut again."""
        self.sound = np.concatenate([self.sound, samples])
        hypothesis = self.transcribe()
        agreed = self.agreement.update(hypothesis)
        if not agreed and len(self.sound) > FULL * SAMPLE_RATE:
            agreed = self.give_up(self.agreement.pending)
        shown = self.note_times(agreed)
        self.cut(hypothesis)
        return Update(shown, join(self.agreement.pending))

    def finish(self) -> Update:
        """Nothing follows: what is pending is as good as it gets."""
        agreed = self.agreement.accept(self.agreement.pending, len(self.agreement.pending))
        return Update(self.note_times(agreed), "")

    def transcribe(self) -> list[Word]:
        """The words since the last cut, with their times in the recording."""
        start = self.offset / SAMPLE_RATE
        before = join([word for word in self.agreement.stable[-CONTEXT:] if word.end <= start + CLOSE])
        found = self.transcriber.transcribe(
            self.sound, self.language, vad=True, word_timestamps=True, initial_prompt=before[-CONTEXT:] or None
        )
        timings = [word for segment in found.segments for word in segment.word_timings]
        return [replace(word, start=start + word.start, end=start + word.end) for word in timings]

    def give_up(self, pending: list[Word]) -> list[Word]:
        """The window is full, and nothing agrees: the text is taken as it is, but for its last seconds."""
        return self.agreement.accept(pending, sum(word.end < self.fed - TAIL for word in pending))

    def note_times(self, agreed: Sequence[Word]) -> list[Shown]:
        """When each of the words that are stable now was shown first."""
        now = self.fed if self.clock is None else self.clock()
        texts = [spelled(word) for word in [*agreed, *self.agreement.pending]]
        before = [*self.seen, *[("", now)] * len(texts)]
        self.seen = [(text, time if text == old else now) for text, (old, time) in zip(texts, before, strict=False)]
        shown = [
            Shown(word, time - word.end, now - word.end)
            for word, (_, time) in zip(agreed, self.seen, strict=False)
        ]  # fmt: skip
        self.seen = self.seen[len(agreed) :]
        return shown

    def cut(self, hypothesis: Sequence[Word]) -> None:
        """Forgets sound whose text is stable, or in which nobody speaks, so that a step takes no longer and longer."""
        seconds, start = len(self.sound) / SAMPLE_RATE, self.offset / SAMPLE_RATE
        inside = [word for word in self.agreement.stable if word.end > start]
        if not hypothesis and not self.agreement.pending:
            self.forget(self.fed - TAIL)
        elif seconds > LONGEST and (ends := [word.end for word in inside if SENTENCE_END.search(word.text)]):
            self.forget(ends[-1])
        elif seconds > FULL:
            self.forget(inside[-1].end if inside else self.fed - TAIL)

    def forget(self, second: float) -> None:
        """The sound before this second of the recording."""
        samples = min(max(0, round(second * SAMPLE_RATE) - self.offset), len(self.sound))
        self.sound, self.offset = self.sound[samples:].copy(), self.offset + samples


def join(timings: Sequence[Word]) -> str:
    """Their text as one line; the words bring their spaces."""
    return "".join(word.text for word in timings).strip()


def transcribe_live(live: LiveTranscriber, pieces: Iterable[np.ndarray]) -> Iterator[Update]:
    """An update for each piece of sound (n,), and one at its end."""
    for piece in pieces:
        yield live.update(piece)
    yield live.finish()
