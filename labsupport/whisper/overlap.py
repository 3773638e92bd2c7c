"""Long sound in windows of fixed length that overlap; what two windows both say is found, and written once.

The way of transformers' pipeline with `chunk_length_s`, beside those of `transcribe`: it needs no timestamps and no
voice detector, and all windows can be decoded side by side. What it costs: the overlaps are decoded twice, a window may
begin or end inside of a word, and a passage that two windows write differently may be written twice, or lost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.recording import FRAME_SECONDS, Recording
from labsupport.speech.segments import Span
from labsupport.whisper.guards import NO_GUARDS, GuardedDecoder, Guards
from labsupport.whisper.token_filters import make_prompt
from labsupport.whisper.transcribe import Transcriber

STRIDE = 5.0  # seconds on each side of a window: a sixth of its length, as transformers has it
LONGER = 1e-4  # by which a match of one place more is better than an equal share of matches


def overlapping_windows(frames: int, stride: float = STRIDE) -> list[Span]:
    """Windows of 30 s, each of which begins two strides before the one before ends; the last may be shorter.

    Args:
        frames: of the recording, 10 ms each.
        stride: seconds; less than 15.
    """
    step = WINDOW_FRAMES - round(2 * stride / FRAME_SECONDS)
    last = max(0, frames - WINDOW_FRAMES)  # from here on a window reaches the end
    return [Span(start, min(start + WINDOW_FRAMES, frames)) for start in range(0, last + step, step) if start < frames]


def find_overlap(left: Sequence[int], right: Sequence[int]) -> tuple[int, int, int]:
    """Where the end of one text and the beginning of the next say the same.

    The texts are laid over each other at every shift; the one at which the largest share of places agrees counts, if
    two places do at least.

    Returns:
        the first place of the overlap in `left` and in `right`, and its length; 0 where there is none.
    """
    best, found = 0.0, (len(left), 0, 0)
    a, b = np.array(left), np.array(right)
    for shift in range(1, len(a) + len(b)):
        start, first = max(0, len(a) - shift), max(0, shift - len(a))
        length = min(len(a) - start, len(b) - first)
        matches = int((a[start : start + length] == b[first : first + length]).sum())
        score = matches / shift + shift * LONGER
        if matches > 1 and score > best:
            best, found = score, (start, first, length)
    return found


def merge(texts: Iterable[Sequence[int]]) -> list[int]:
    """Texts of windows that overlap -> one text. Of two neighbours' overlap the first half is taken from the left one,
    the second from the right one: near its own edge a window hears least.

    Source: `_find_longest_common_sequence` in transformers 4.57, models/whisper/tokenization_whisper.py.
    """
    merged: list[int] = []
    left: list[int] = []
    for right in texts:
        start, first, length = find_overlap(left, right)
        merged += left[: start + length // 2]
        left = list(right[first + length // 2 :])
    return merged + left


def transcribe_overlapping(
    transcriber: Transcriber,
    samples: np.ndarray | Iterable[np.ndarray],
    language: str | None = None,
    batch: int = 1,
    stride: float = STRIDE,
    beams: int = 1,
    guards: Guards = NO_GUARDS,
) -> str:
    """The text of sound of any length; `samples`, `beams` and `guards` as for `Transcriber.transcribe`.

    Args:
        language: None takes English.
        batch: windows that are decoded at once.
        stride: seconds that a window has in common with each of its neighbours, twice over.
    """
    recording = transcriber.analyse(samples)
    prompt = make_prompt(transcriber.tokenizer, (language or "en") if transcriber.model.config.multilingual else None)
    decoder = GuardedDecoder(
        transcriber.model, transcriber.tokenizer, transcriber.rules, prompt, beams=beams, guards=guards
    ).without_timestamps()
    windows = overlapping_windows(recording.frames, stride)
    groups = [windows[first : first + batch] for first in range(0, len(windows), batch)]
    decoded = map(functools.partial(decode_group, decoder, recording), groups)
    texts = ([token for token in tokens if token < decoder.rules.eot] for group in decoded for tokens in group)
    return transcriber.tokenizer.decode(merge(texts)).strip()


def decode_group(decoder: GuardedDecoder, recording: Recording, windows: Sequence[Span]) -> list[list[int]]:
    """The tokens of windows that are decoded side by side; none where the guards find silence."""
    mels = np.stack([recording.window(window) for window in windows])  # (windows, mels, 3000)
    found = decoder.decode(decoder.model.encode(mels))
    return [[] if decoder.guards.is_silence(each) else each.tokens for each in found]
