"""Times of words: the path against naive ones, what a word is, and a window whose attention is known."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from small_model import SMALL
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech.text import Segment, Tokenizer, Word
from labsupport.whisper.word_timestamps import (
    Span,
    align_window,
    dtw,
    median_filter,
    read_alignment_heads,
    split_characters,
    split_text,
    take_out_pauses,
    tighten,
)

HEADS = [[1, 0], [1, 1]]

# --- the path ---------------------------------------------------------------------------------------------------------

COSTS = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-9, 9))


def cheapest(cost: np.ndarray) -> float:
    """The cost of the cheapest way, element by element."""
    total = np.full((len(cost) + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i, j in np.ndindex(*cost.shape):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[-1, -1]


@given(COSTS)
@settings(max_examples=100, deadline=None)
def test_the_way_is_whole_goes_forward_and_is_the_cheapest(cost):
    rows, columns = dtw(cost)
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[-1], columns[-1]) == (cost.shape[0] - 1, cost.shape[1] - 1)
    steps = {(int(a), int(b)) for a, b in zip(np.diff(rows), np.diff(columns), strict=True)}
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[rows, columns].sum() == cheapest(cost)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (7, 30), (30, 7)])
def test_the_way_is_transformers(shape):
    cost = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert [way.tolist() for way in dtw(cost)] == [way.tolist() for way in _dynamic_time_warping(cost)]


def test_the_longest_text_over_a_whole_window():
    cost = np.ones((445, 1500))
    cheap = np.sort(np.random.default_rng(0).choice(1500, 445, replace=False))
    cost[np.arange(445), cheap] = -1e3
    assert set(enumerate(cheap)) <= set(zip(*dtw(cost), strict=True))


@pytest.mark.parametrize("frames", [1, 3, 4, 7, 40])
def test_the_median_is_scipys(frames):
    x = np.random.default_rng(frames).normal(size=(2, 3, frames)).astype(np.float32)
    expected = x if frames <= 3 else scipy.ndimage.median_filter(x, size=(1, 1, 7), mode="mirror")
    assert np.array_equal(median_filter(x), expected)


# --- heads ------------------------------------------------------------------------------------------------------------

ALL_OF_THE_LAST_LAYER = ((1, 0), (1, 1))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"alignment_heads": [[1, 0], [0, 1]]}, ((1, 0), (0, 1))),
        ({"alignment_heads": [[0, 1], [5, 0], [1, 2]]}, ((0, 1),)),  # of the model before it was pruned
        ({"alignment_heads": [[5, 0]]}, ALL_OF_THE_LAST_LAYER),
        ({"alignment_heads": None}, ALL_OF_THE_LAST_LAYER),
        ({}, ALL_OF_THE_LAST_LAYER),
        (None, ALL_OF_THE_LAST_LAYER),
    ],
)
def test_heads_are_those_listed_or_the_upper_half(tmp_path, settings, expected):
    if settings is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert read_alignment_heads(tmp_path, SMALL) == expected


# --- words ------------------------------------------------------------------------------------------------------------


def cut_bytes(text: str, places: list[int]) -> list[bytes]:
    content = text.encode()
    ends = sorted({place % (len(content) + 1) for place in places} | {len(content)} - {0})
    return [part for a, b in zip([0, *ends], ends, strict=False) if (part := content[a:b])]


def decoder_of(pieces: list[bytes]):
    return lambda tokens: b"".join(pieces[token] for token in tokens).decode(errors="replace")


def spans_of(pieces: list[str]) -> list[Span]:
    return [Span(piece, i, i + 1) for i, piece in enumerate(pieces)]


def texts(spans: list[Span]) -> list[str]:
    return [span.text for span in spans]


@given(st.text(max_size=20), st.lists(st.integers(0, 60)))
@settings(max_examples=100, deadline=None)
def test_characters_are_whole_and_lose_nothing_however_tokens_cut_them(text, places):
    pieces = cut_bytes(text, places)
    spans = split_characters(list(range(len(pieces))), decoder_of(pieces), first=7)
    assert "".join(texts(spans)) == text
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(7, 7 + len(pieces)))
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in texts(spans))


@given(st.text(max_size=20), st.lists(st.integers(0, 60)), st.booleans())
@settings(max_examples=100, deadline=None)
def test_words_lose_nothing_and_do_not_overlap(text, places, spaced):
    pieces = cut_bytes(text, places)
    found = split_text(split_characters(list(range(len(pieces))), decoder_of(pieces)), spaced)
    assert "".join(texts(found)) == text
    assert all(span.start < span.stop for span in found)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(found))


def test_broken_bytes_at_the_end_stay():
    pieces = ["日".encode(), "本".encode()[:2]]
    assert texts(split_characters([0, 1], decoder_of(pieces))) == ["日", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([" He", "llo", ",", " world", "."], [" Hello,", " world."]),
        ([" fine", "-", "tuning", " of", " 3", ".", "5", "%"], [" fine-tuning", " of", " 3.5%"]),
        ([" don", "'t", " say", ' "', "no", '."'], [" don't", " say", ' "no."']),
        ([" -", " Yes", ".", " -", " No", "!"], [" - Yes. -", " No!"]),
        ([" wait", " ...", " ¿", "Qué", "?"], [" wait ...", " ¿Qué?"]),
        (["..."], ["..."]),
        ([" (", "he", " left", ")"], [" (he", " left)"]),
        ([" [", " sic", " ]"], [" [ sic ]"]),
        ([], []),
    ],
)
def test_words_of_a_language_with_spaces(pieces, expected):
    assert texts(split_text(spans_of(pieces), spaced=True)) == expected


def test_characters_of_a_language_without_spaces():
    pieces = ["「", "今日", "は", "」", "、", "元", "気", "？"]
    assert texts(split_text(spans_of(pieces), spaced=False)) == ["「今日", "は」、", "元", "気？"]


@pytest.mark.weights
@pytest.mark.parametrize("text", ["天気は、いい🙂ですね。鱻", "ภาษาไทย", "မြန်မာ"])
def test_whispers_tokens_make_whole_characters(text):
    tokenizer = Tokenizer(find_checkpoint("base").folder)
    tokens = tokenizer.encode(text)
    found = split_text(split_characters(tokens, tokenizer.decode), spaced=False)
    assert "".join(texts(found)) == text
    assert len(found) > 3
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in texts(found))


def test_punctuation_around_a_word_does_not_lengthen_it():
    (word,) = split_text(spans_of([" (", "fine", "-", "tuned", ")", "."]), spaced=True)
    assert (word.start, word.stop) == (1, 4)


def timed(*words: tuple[str, float, float]) -> list[Word]:
    return [Word(start, end, text, 1.0) for text, start, end in words]


def test_a_pause_is_taken_from_a_words_end_at_a_sentences_end_else_from_its_start():
    plain = [(" word", i, i + 0.3) for i in range(20, 32)]
    long = [(" Then", 0, 2), (' silence."', 2, 8), (" Then", 8, 10), (" who", 10, 12), (" came", 12, 15)]
    after = take_out_pauses([timed(*long), timed(*plain)])
    moved = [(word.start > start, word.end < end) for word, (_, start, end) in zip(after[0], long, strict=True)]
    assert moved == [(True, False), (False, True), (True, False), (True, False), (False, True)]
    assert [word.end - word.start for word in after[0]] == pytest.approx([0.45, 0.675, 0.45, 0.375, 0.45])
    assert after[1] == timed(*plain)


def test_one_word_alone_is_no_slower_than_speech():
    ((word,),) = take_out_pauses([timed((" Yes.", 0.0, 28.0))])
    assert word.end == 28.0
    assert word.end - word.start < 1.0


def test_spoken_numbers_are_long():
    year = timed((" in", 0, 0.2), (" the", 0.2, 0.45), (" year", 0.45, 0.8), (" 1865.", 0.8, 2.1))
    assert take_out_pauses([year]) == [year]


def test_a_segment_is_tightened_to_its_words():
    segment = Segment(0.0, 8.0, "Come in.", tuple(timed(("Come", 1.2, 1.5), (" in.", 1.5, 1.7))))
    assert (tighten(segment).start, tighten(segment).end) == (1.2, 1.7)
    assert tighten(Segment(0.0, 8.0, "")) == Segment(0.0, 8.0, "")


# --- a window, by a model whose attention is known --------------------------------------------------------------------

TOKENIZER = SimpleNamespace(
    eot=50, sot=55, translate=57, no_timestamps=60, languages={"en": 56, "ja": 58},
    decode=lambda tokens: "".join(f" {chr(97 + token)}" for token in tokens),
)  # fmt: skip


class Attending:
    """A token of the text attends to its own frame, `peaks`; the prompt to the first, the end to the last."""

    config = SMALL

    def __init__(self, peaks: list[int]):
        self.peaks = peaks

    def cross_attention(self, tokens, encoder_out, heads):
        self.tokens = tokens[0].tolist()
        before = tokens.shape[1] - 2 - len(self.peaks)  # a token's row is that of the one before it
        weights = np.ones((len(heads), tokens.shape[1], 1500), np.float32)
        for i, peak in enumerate([*[0] * before, *self.peaks, 1499, 1499]):
            weights[:, i, max(0, peak - 5) : peak + 5] = 100
        return weights / weights.sum(-1, keepdims=True)

    def new_cache(self):
        return None

    def project_cross_kv(self, encoder_out, cache):
        pass

    def prefill(self, tokens, cache):
        logits = np.zeros((1, tokens.shape[1], SMALL.vocab_size), np.float32)
        logits[0, :, 60:] = 99.0  # timestamps are no text
        return logits


def align(peaks, cuts, prompt=(55, 56), seek=0, frames=3000, after=0.0):
    model = Attending(peaks)
    return align_window(model, TOKENIZER, None, cuts, list(prompt), HEADS, seek, frames, after), model


def test_words_are_where_the_attention_is_and_segments_get_their_own():
    cuts = [(0, 50, [61, 1, 2, 90]), (50, 60, [61, 90]), (60, 99, [65, 3])]
    (first, second, third), model = align([50, 60, 75], cuts, prompt=[59, 1, 2, 55, 56], seek=1000)
    assert model.tokens == [55, 56, 60, 1, 2, 3, 50]
    assert ([w.text for w in first], second, [w.text for w in third]) == ([" b", " c"], (), [" d"])
    assert [first[1].start, third[0].start] == pytest.approx([11.1, 11.35], abs=0.1)
    assert first[0].probability == pytest.approx(1 / 50)


def test_a_word_of_the_window_before_may_end_in_this_one():
    ((first, second),), _ = align([50, 200], [(0, 50, [1, 2])], seek=1000, after=11.6)
    assert first.start == 11.6
    assert first.start <= first.end <= second.start


def test_without_text_there_are_no_words():
    assert align([], [(0, 50, [61, 90]), (50, 60, [])])[0] == [(), ()]


@pytest.mark.parametrize(("prompt", "count"), [([55, 56], 1), ([55, 58, 59], 3), ([55, 58, 57], 1), ([55], 1)])
def test_the_prompts_language_says_whether_words_have_spaces(prompt, count):
    """A translation from Japanese is English; so is the text of a model without languages."""
    joined = SimpleNamespace(
        **vars(TOKENIZER) | {"decode": lambda tokens: "".join(chr(97 + token) for token in tokens)}
    )
    (found,) = align_window(Attending([5, 9, 13]), joined, None, [(0, 9, [1, 2, 3])], prompt, HEADS, 0, 3000)
    assert len(found) == count


def test_a_text_longer_than_the_decoder_is_cut_and_loses_no_word():
    text = [1] * 460
    (words,), model = align([10], [(0, 50, text)])
    assert len(model.tokens) == SMALL.text_positions
    assert len(words) == 460
    assert words[-1].probability == 0.0


@given(
    st.lists(st.integers(0, 1499), min_size=1, max_size=12),
    st.integers(1, 3000),
    st.integers(0, 10_000),
    st.sampled_from([(55,), (55, 58, 59), (55, 58, 57), (1, 55, 56, 60)]),
)
@settings(max_examples=60, deadline=None)
def test_times_lie_in_the_windows_sound_in_order_and_without_overlap(peaks, frames, seek, prompt):
    cut = len(peaks) // 2
    cuts = [(0, 9, [1] * cut), (9, 12, [2] * (len(peaks) - cut))]
    words = [word for part in align(peaks, cuts, prompt, seek, frames)[0] for word in part]
    times = [time for word in words for time in (word.start, word.end)]
    assert len(words) == len(peaks)
    assert times == sorted(times)
    assert seek / 100 - 1e-6 <= times[0]
    assert times[-1] <= (seek + frames) / 100 + 1e-6
    assert all(0 <= word.probability <= 1 for word in words)
