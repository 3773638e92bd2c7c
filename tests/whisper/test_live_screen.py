"""`lab live`: lines of stable sentences, and an end that loses none of them."""

from __future__ import annotations

import io
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from labsupport.base.errors import WhisperError
from labsupport.machine.stop_signals import StopSignals
from labsupport.speech.text import Segment, Word
from labsupport.whisper.live_screen import show_live

SAID = ["One", "two.", "Three", "four.", "Five"]


class Speaker:
    """Says one of `SAID` for each second of sound."""

    model = SimpleNamespace(config=SimpleNamespace(multilingual=False))
    tokenizer = SimpleNamespace(languages={"en": 1})

    def transcribe(self, samples, language, **options):
        words = [Word(i, i + 0.5, f" {word}", 1.0) for i, word in enumerate(SAID[: len(samples) // 16_000])]
        return SimpleNamespace(segments=[Segment(0, 1, "", tuple(words))])


def show(pieces, terminal=False, language=None) -> tuple[str, str]:
    out, errors = (Console(file=io.StringIO(), force_terminal=terminal, width=80) for _ in range(2))
    with StopSignals() as stop:
        show_live(Speaker(), pieces, 1.0, language, out, errors, stop)
    return out.file.getvalue(), errors.file.getvalue()


def seconds(count: int, then=lambda: None):
    for _ in range(count):
        yield np.ones(16_000, np.float32)
    then()


LINES = "[   0.00]  One two.\n[   2.00]  Three four.\n[   4.00]  Five\n"


def test_each_stable_sentence_is_a_line_and_the_rest_comes_at_the_end():
    printed, told = show(seconds(5))
    assert printed == LINES
    assert re.fullmatch(r"5 words; first shown after -?\d\.\d s, stable after -?\d\.\d s \(medians\)\n", told)


def test_a_terminal_also_sees_what_may_still_change():
    printed, _ = show(seconds(3), terminal=True)
    assert "\x1b[2m Three" in printed  # dim
    assert "[   0.00]  One two." in printed


def test_nothing_said_is_told():
    assert show(iter(())) == ("", "no speech\n")


def test_an_unknown_language_is_an_error():
    with pytest.raises(WhisperError):
        show(seconds(1), language="klingon")


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_ctrl_c_ends_the_sound_and_what_was_said_is_printed():
    printed, told = show(seconds(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert printed == LINES
    assert told.startswith("5 words")
