"""What a terminal shows of live text: each stable sentence as a line, and below them what may still change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from labsupport.machine.stop_signals import StopSignals
from labsupport.speech.text import Word
from labsupport.speech.transcripts import one_line
from labsupport.whisper.language import check_language
from labsupport.whisper.live import SENTENCE_END, LiveTranscriber, Shown, Update, join
from labsupport.whisper.transcribe import Transcriber


class Lines:
    """Collects stable words to sentences, and prints each as a line with the second at which it begins.

    Only a terminal is shown what is not stable yet.
    """

    def __init__(self, out: Console):
        self.out, self.sentence = out, list[Word]()
        self.view = Live(console=out, transient=True, auto_refresh=False) if out.is_terminal else None

    def take(self, update: Update) -> None:
        for shown in update.stable:
            self.sentence.append(shown.word)
            if SENTENCE_END.search(shown.word.text):
                self.print_sentence()
        if self.view is not None:
            text = Text(one_line(join(self.sentence)))
            text.append(f" {one_line(update.pending)}", style="dim")
            self.view.update(text, refresh=True)

    def print_sentence(self) -> None:
        if self.sentence:
            line = f"[{self.sentence[0].start:7.2f}]  {one_line(join(self.sentence))}"
            self.out.print(line, markup=False, highlight=False)
        self.sentence = []


def show_live(
    transcriber: Transcriber,
    pieces: Iterator[np.ndarray],
    speed: float,
    language: str | None,
    out: Console,
    errors: Console,
    stop: StopSignals,
) -> None:
    """Prints the text of sound while it comes, and in the end how late it was. A signal ends the sound, not the text.

    Args:
        pieces: (n,) float32, mono, 16 kHz, each as soon as it has sounded.
        speed: how many times as fast as it was said it comes.

    Raises:
        WhisperError: the model does not know the language.
        AudioError, NotAvailable: of `pieces`.
    """
    check_language(transcriber.model, transcriber.tokenizer, language)
    start = time.monotonic()
    live = LiveTranscriber(transcriber, language, clock=lambda: (time.monotonic() - start) * speed)
    lines, found = Lines(out), list[Shown]()
    with lines.view or contextlib.nullcontext():
        for update in until_stopped(live, pieces, stop):
            lines.take(update)
            found += update.stable
        lines.print_sentence()
    errors.print(describe_latency(found, speed), markup=False, highlight=False)


def until_stopped(live: LiveTranscriber, pieces: Iterator[np.ndarray], stop: StopSignals) -> Iterator[Update]:
    """As `live.transcribe_live`, until a signal comes."""
    with contextlib.suppress(KeyboardInterrupt):  # the ordinary end of what comes from a microphone
        while True:
            with stop.interruptible():
                piece = next(pieces, None)
                if piece is None:
                    break
                update = live.update(piece)
            yield update
    yield live.finish()


def describe_latency(found: Sequence[Shown], speed: float) -> str:
    """How long after they were said words were shown first, and stable: seconds by the clock, half of them sooner."""
    if not found:
        return "no speech"
    first, stable = (median(getattr(each, name) for each in found) / speed for name in ("first", "stable"))
    return f"{len(found)} words; first shown after {first:.1f} s, stable after {stable:.1f} s (medians)"
