"""When each word is said: the decoder's cross-attention, aligned with the text by dynamic time warping.

A few of the decoder's heads attend to the frame in which the next token is said. Their weights, given the whole text at
once, are a picture of the text over time; the path through it that collects the most attention, and never goes back,
gives every token its time.

`transcribe` calls `align_window` for each window of sound whose text is settled, with the heads that
`read_alignment_heads` finds once for each checkpoint; then `tighten` for each segment.

Source: openai-whisper, timing.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.settings import read_generation
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.features import HOP
from labsupport.speech.text import SPACELESS, Segment, Tokenizer, Word
from labsupport.whisper.protocol import EncoderOut, Heads, WhisperModel
from labsupport.whisper.token_filters import log_softmax

LOG_MEL_FRAMES = 2  # in an encoder frame
FRAME_SECONDS = LOG_MEL_FRAMES * HOP / SAMPLE_RATE  # an encoder frame
MEDIAN_WIDTH = 7  # frames
SMALL = np.finfo(np.float32).tiny  # no division by zero
SLOWEST = 0.12  # seconds a letter: if words take longer, it is the alignment that is wrong
SENTENCE_ENDS = frozenset(".!?…。！？؟।")
CLOSING = "\"'”’»)]」』"  # may follow a sentence's end
SPOKEN_MARKS = frozenset("%&@#")  # Unicode counts them as punctuation
Cut = tuple[int, int, list[int]]  # as in `transcribe`: a segment's start and end in timestamps, and its tokens


def read_alignment_heads(folder: Path, config: Config) -> tuple[tuple[int, int], ...]:
    """The (layer, head) pairs that follow the speech: `alignment_heads` of the folder's `generation_config.json`.

    Without them (a model fine-tuned or pruned by others), all heads of the upper half of the decoder's layers.
    """
    listed = read_generation(Path(folder)).get("alignment_heads") or ()
    fitting = tuple((a, b) for a, b in listed if a < config.decoder_layers and b < config.heads)
    return fitting or upper_half(config)


def upper_half(config: Config) -> tuple[tuple[int, int], ...]:
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return tuple((layer, head) for layer in layers for head in range(config.heads))


# --- the path ---------------------------------------------------------------------------------------------------------


def median_filter(x: np.ndarray, width: int = MEDIAN_WIDTH) -> np.ndarray:
    """(..., frames) -> the same: the median of `width` frames around each, mirrored at the ends.

    As they are where there are too few frames to mirror.
    """
    half = width // 2
    if x.shape[-1] <= half:
        return x
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)  # (..., frames, width)
    return np.partition(windows, half, axis=-1)[..., half]


def dtw(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way through a matrix from its first to its last element: one down, one right, or both at a time.

    Args:
        cost: (rows, columns), at least one of each.

    Returns:
        the way's rows and its columns, (steps,) int64 each.

    Source: Sakoe and Chiba 1978, without slope constraint. Elements of an anti-diagonal do not depend on each other,
    and are computed together.
    """
    rows, columns = cost.shape
    skewed = np.full((rows + columns - 1, rows), np.inf)  # element (i, j) at [i + j, i]
    row = np.arange(rows)
    for column in range(columns):
        skewed[row + column, row] = cost[:, column]
    totals = np.full((rows + columns + 1, rows + 1), np.inf)  # of the cheapest way to (i, j) at [i + j + 2, i + 1]
    totals[0, 0] = 0.0
    for diagonal, costs in enumerate(skewed):
        straight = np.minimum(totals[diagonal + 1, :-1], totals[diagonal + 1, 1:])
        totals[diagonal + 2, 1:] = costs + np.minimum(totals[diagonal, :-1], straight)
    return trace_back(totals, rows - 1, columns - 1)


def trace_back(totals: np.ndarray, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The way to (i, j), from the totals as `dtw` lays them out; of equally cheap steps the one to the right.

    openai-whisper's rule takes the step to the right also where the other two are cheaper and equal.
    """
    way = [(i, j)]
    while i or j:
        both, down, right = totals[i + j, i], totals[i + j + 1, i], totals[i + j + 1, i + 1]
        if right <= both and right <= down:
            j -= 1
        elif both <= down:
            i, j = i - 1, j - 1
        else:
            i -= 1
        way.append((i, j))
    found = np.array(way[::-1])
    return found[:, 0], found[:, 1]


def attention_picture(weights: np.ndarray) -> np.ndarray:
    """(heads, length, frames) attention weights -> (length, frames): how strongly each token stands out in each frame.

    Each frame is normalised over the text, so that one that every token attends to counts for none; then the median
    over time and the mean over heads take out what is not common to neighbours.
    """
    total = np.zeros(weights.shape[1:])
    for head in weights:  # (length, frames)
        total += median_filter((head - head.mean(0)) / np.maximum(head.std(0), SMALL))
    return total / len(weights)


@dataclass(frozen=True)
class Alignment:
    """Of a text's n tokens: when each begins and, last, when the text ends, (n + 1,) seconds from the window's start;
    and each token's probability, (n,).
    """

    times: np.ndarray
    probabilities: np.ndarray


def find_alignment(
    model: WhisperModel, encoder_out: EncoderOut, text: list[int], start: list[int], eot: int, heads: Heads, frames: int
) -> Alignment:
    """Aligns a window's text, given all at once.

    Args:
        encoder_out: (1, 1500, d_model).
        text: tokens without timestamps. Those beyond the decoder's positions get the last time and probability 0.
        start: the tokens before the text, from the start of the transcript on.
        frames: encoder frames that hold sound, at least one; the attention beyond them is shared out among these.
    """
    room = model.config.text_positions - len(start) - 1
    fitting, rest = text[:room], len(text[room:])
    tokens = np.array([[*start, *fitting, eot]], np.int64)
    weights = model.cross_attention(tokens, encoder_out, heads)[:, :, :frames]  # (heads, length, frames)
    picture = attention_picture(weights / np.maximum(weights.sum(-1, keepdims=True), SMALL))
    rows, columns = dtw(-picture[len(start) - 1 : -1])  # a token's row is that of the one before, which predicts it
    times = columns[np.searchsorted(rows, np.arange(len(fitting) + 1))] * FRAME_SECONDS
    probabilities = token_probabilities(model, encoder_out, start, fitting, eot)
    return Alignment(np.pad(times, (0, rest), mode="edge"), np.pad(probabilities, (0, rest)))


def token_probabilities(
    model: WhisperModel, encoder_out: EncoderOut, start: list[int], text: list[int], eot: int
) -> np.ndarray:
    """Of each of the text's n tokens after those before it, among all text tokens: (n,) float32."""
    cache = model.new_cache()
    model.project_cross_kv(encoder_out, cache)
    tokens = np.array([[*start, *text[:-1]]], np.int64)
    logits = model.prefill(tokens, cache)[0, len(start) - 1 :, :eot]  # (n, text tokens)
    # one after the other: all at once they would take three times the memory of the logits
    return np.exp(np.array([log_softmax(row)[token] for row, token in zip(logits, text, strict=True)]))


# --- words ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Some text, and which of the window's text tokens say it: from `start` to before `stop`.

    Of a word these are without the punctuation around it, whose tokens attend to the pause.
    """

    text: str
    start: int
    stop: int


def split_characters(tokens: list[int], decode: Callable[[list[int]], str], first: int = 0) -> list[Span]:
    """The smallest spans that are whole characters: a token may hold only some of a character's bytes.

    Args:
        decode: gives the text of tokens, and U+FFFD for what is no whole character.
        first: the number of the first token.
    """
    spans, start = [], 0
    for stop in range(1, len(tokens) + 1):
        text = decode(tokens[start:stop])
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or stop == len(tokens):
            spans.append(Span(text, first + start, first + stop))
            start = stop
    return spans


def is_silent(text: str) -> bool:
    """Whether the text has nothing to be said: punctuation and spaces alone."""
    return all(unicodedata.category(c)[0] in "PZC" and c not in SPOKEN_MARKS for c in text)


def opens(text: str) -> bool:
    """Whether this punctuation belongs to what follows: an opening bracket or quotation mark."""
    stripped = text.strip()
    return bool(stripped) and all(unicodedata.category(c) in ("Ps", "Pi") or c in "¿¡" for c in stripped)


def split_text(characters: Iterable[Span], spaced: bool) -> list[Span]:
    """Joins characters to words, and punctuation to the word before it, or after it where it opens or comes first.

    A word begins at a space; in a language without spaces between words every character is one. The words' texts, one
    after the other, are the whole text.
    """
    groups: list[list[Span]] = []
    for span in characters:
        if groups and spaced and not span.text[:1].isspace():
            groups[-1].append(span)
        else:
            groups.append([span])
    return [join(group) for group in attach_punctuation(groups)]


def attach_punctuation(groups: list[list[Span]]) -> list[list[Span]]:
    """Gives every group that says nothing to a neighbour."""
    attached: list[list[Span]] = []
    opening: list[Span] = []
    for group in groups:
        if not all(is_silent(span.text) for span in group):
            attached.append(opening + group)
            opening = []
        elif attached and not opening and not opens(group[0].text):
            attached[-1] += group
        else:
            opening += group
    if opening and attached:
        attached[-1] += opening
    elif opening:
        attached.append(opening)  # a text of punctuation alone
    return attached


def join(group: list[Span]) -> Span:
    """One span of all the text, and of the tokens that say it."""
    spoken = [span for span in group if not is_silent(span.text)] or group
    return Span("".join(span.text for span in group), spoken[0].start, spoken[-1].stop)


def is_spaced(prompt: list[int], tokenizer: Tokenizer) -> bool:
    """Whether the text is in a language with spaces between words; a translation is English."""
    spaceless = {tokenizer.languages[code] for code in SPACELESS if code in tokenizer.languages}
    return tokenizer.translate in prompt or not spaceless & set(prompt)


# --- times ------------------------------------------------------------------------------------------------------------


def align_window(
    model: WhisperModel,
    tokenizer: Tokenizer,
    encoder_out: EncoderOut,
    cuts: Sequence[Cut],
    prompt: list[int],
    heads: Heads,
    seek: int,
    frames: int,
    after: float = 0.0,
) -> list[tuple[Word, ...]]:
    """When the words of one window are said.

    Args:
        encoder_out: (1, 1500, d_model), of this window alone.
        cuts: the window's segments, as `transcribe.cut_segments` gives them.
        prompt: what the window was decoded with. Of it the language and the task are taken; not the text before.
        heads: from `read_alignment_heads`.
        seek: the log-mel frame of the recording at which the window begins.
        frames: log-mel frames of sound in the window.
        after: seconds of the recording at which the window before has its last word's end, which may lie in this one.

    Returns:
        the words of each segment, none for one without text. Times are seconds from the recording's beginning, within
        the window's sound, in order, without overlap. The words' texts, one after the other, are the segment's.
    """
    texts = [[token for token in tokens if token < tokenizer.eot] for _, _, tokens in cuts]
    text = [token for part in texts for token in part]
    if not text:
        return [()] * len(cuts)
    start = take_start(prompt, tokenizer)
    alignment = find_alignment(model, encoder_out, text, start, tokenizer.eot, heads, max(1, frames // LOG_MEL_FRAMES))
    segments, first = [], 0
    for part in texts:
        spans = split_text(split_characters(part, tokenizer.decode, first), is_spaced(start, tokenizer))
        segments.append([time_word(span, alignment) for span in spans])
        first += len(part)
    return [place(timings, seek * HOP / SAMPLE_RATE, after) for timings in take_out_pauses(segments)]


def take_start(prompt: list[int], tokenizer: Tokenizer) -> list[int]:
    """The prompt from the start of the transcript on, for a text without timestamps."""
    start = prompt[prompt.index(tokenizer.sot) :]
    return [*(token for token in start if token != tokenizer.no_timestamps), tokenizer.no_timestamps]


def time_word(span: Span, alignment: Alignment) -> Word:
    start, end = alignment.times[span.start], alignment.times[span.stop]
    return Word(float(start), float(end), span.text, float(alignment.probabilities[span.start : span.stop].mean()))


def take_out_pauses(segments: list[list[Word]]) -> list[list[Word]]:
    """Takes pauses out of words: the tokens around a pause share it between them, as it happens.

    A word is too long at half again of what its letters take at the usual pace of the window. One that ends a sentence
    or a segment then ends earlier; any other starts later, for the pause is before it.

    openai-whisper has one limit for all words, twice the median, which leaves most of a pause in a short one.
    """
    paces = [(word.end - word.start) / count_letters(word.text) for part in segments for word in part]
    pace = min(float(np.median([pace for pace in paces if pace > 0] or [SLOWEST])), SLOWEST)
    return [
        [
            shorten(word, 1.5 * pace * count_letters(word.text), begins_sentence(i, timings), ends_sentence(i, timings))
            for i, word in enumerate(timings)
        ]
        for timings in segments
    ]


def count_letters(text: str) -> int:
    """How long the text is in letters when it is said: a digit is a word, and no word takes less time than three."""
    return 2 + max(1, sum(c.isalpha() + 4 * c.isdigit() for c in text))


def begins_sentence(i: int, timings: list[Word]) -> bool:
    return i == 0 or ends_sentence(i - 1, timings)


def ends_sentence(i: int, timings: list[Word]) -> bool:
    return i == len(timings) - 1 or timings[i].text.strip().rstrip(CLOSING)[-1:] in SENTENCE_ENDS


def shorten(word: Word, longest: float, begins: bool, ends: bool) -> Word:
    if word.end - word.start <= longest:
        return word
    if ends and not begins:
        return replace(word, end=word.start + longest)
    return replace(word, start=word.end - longest)


def place(timings: list[Word], offset: float, after: float) -> tuple[Word, ...]:
    """Words of a window that begins at `offset` seconds; none is before `after`."""
    return tuple(
        replace(word, start=round(max(after, offset + word.start), 2), end=round(max(after, offset + word.end), 2))
        for word in timings
    )


def tighten(segment: Segment) -> Segment:
    """The segment from its first word to its last, whose times are more exact than its own; without words, itself."""
    if not segment.word_timings:
        return segment
    return replace(segment, start=segment.word_timings[0].start, end=segment.word_timings[-1].end)
