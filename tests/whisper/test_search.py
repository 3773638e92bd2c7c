"""Decoding against transformers' generate, on real speech."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from labsupport.base.errors import WhisperError
from labsupport.speech import audio, features, text
from labsupport.whisper.search import Hypothesis, decode, detect_language
from labsupport.whisper.token_filters import TokenRules, filter_logits, make_prompt
from labsupport.whisper.transcribe import cut_segments

RULES = TokenRules(
    eot=50, no_timestamps=60, no_speech=59, timestamp_begin=61, suppressed=(), suppressed_first=(), last_start=10
)


@pytest.fixture(scope="module")
def transcripts(tiny, base, narration) -> dict:
    """Both models' transcripts of the narration, made once."""
    return {name: pair.ours.transcribe(narration) for name, pair in (("tiny.en", tiny), ("base", base))}


def their_windows(pair, samples, **options) -> list[int]:
    """transformers' tokens for one window, prompt, end and padding left out."""
    mel = torch.from_numpy(features.log_mel(samples))[None]
    if pair.theirs.generation_config.is_multilingual:
        options["language"] = "en"
    tokens = pair.theirs.generate(mel, force_unique_generate_call=True, **options)[0].tolist()
    rules = pair.ours.rules
    return [token for token in tokens if token < rules.eot or token >= rules.timestamp_begin]


def our_windows(pair, samples, timestamps=True, beams=1) -> Hypothesis:
    ours = pair.ours
    language = "en" if ours.model.config.multilingual else None
    prompt = make_prompt(ours.tokenizer, language, timestamps=timestamps)
    encoded = ours.model.encode(features.log_mel(samples)[None])
    return decode(ours.model, encoded, prompt, replace(ours.rules, timestamps=timestamps), beams)[0]


@pytest.mark.parametrize("timestamps", [True, False])
def test_greedy_tokens_equal_transformers(pair, jfk, timestamps):
    theirs = their_windows(pair, jfk, return_timestamps=timestamps)
    assert our_windows(pair, jfk, timestamps).tokens == theirs
    assert len(theirs) > 20


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_tokens_equal_transformers(tiny, jfk, narration, timestamps, beams):
    for samples in (jfk, narration[: 8 * audio.SAMPLE_RATE]):
        theirs = their_windows(tiny, samples, return_timestamps=timestamps, num_beams=beams)
        assert our_windows(tiny, samples, timestamps, beams).tokens == theirs


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_long_form_segments_equal_transformers(request, transcripts, narration, name):
    pair = request.getfixturevalue(name.removesuffix(".en"))
    ours, found = pair.ours, transcripts[name]
    inputs = pair.processor(
        narration, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    options = {"language": "en"} if ours.model.config.multilingual else {}
    theirs = pair.theirs.generate(**inputs, return_timestamps=True, return_segments=True, **options)["segments"][0]
    words = [ours.tokenizer.decode([t for t in s["tokens"].tolist() if t < ours.rules.eot]).strip() for s in theirs]
    assert [segment.text for segment in found.segments] == words
    assert [segment.start for segment in found.segments] == pytest.approx(
        [float(s["start"]) for s in theirs], abs=0.011
    )
    assert [segment.end for segment in found.segments] == pytest.approx([float(s["end"]) for s in theirs], abs=0.011)


@pytest.mark.parametrize("beams", [1, 3])
def test_windows_decoded_together_equal_windows_decoded_alone(tiny, narration, beams):
    ours = tiny.ours
    mels = np.stack([features.log_mel(part) for part in audio.windows(narration)])
    prompt = make_prompt(ours.tokenizer, None)
    together = decode(ours.model, ours.model.encode(mels), prompt, ours.rules, beams)
    for mel, text_together in zip(mels, together, strict=True):
        alone = decode(ours.model, ours.model.encode(mel[None]), prompt, ours.rules, beams)[0]
        assert alone.tokens == text_together.tokens
        assert alone.avg_logprob == pytest.approx(text_together.avg_logprob, abs=1e-3)


def test_base_detects_english(base, jfk, narration):
    for samples in (jfk, narration):
        encoded = base.ours.model.encode(features.log_mel(samples)[None, :, :3000])
        code, probability = detect_language(base.ours.model, encoded, base.ours.tokenizer)[0]
        assert code == "en"
        assert probability > 0.9


@pytest.mark.parametrize(("name", "most"), [("tiny.en", 0.08), ("base", 0.04)])
def test_word_error_rate_of_the_narration(transcripts, name, most):
    assert text.wer(audio.clip("narration").text, transcripts[name].text) <= most


def test_jfk_comes_out_word_for_word(pair, jfk):
    assert text.wer(audio.clip("jfk").text, pair.ours.transcribe(jfk).text) == 0


def test_batched_windows_lose_little(tiny, narration):
    found = tiny.ours.transcribe(narration, batch=4)
    assert text.wer(audio.clip("narration").text, found.text) < 0.1
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)
    assert found.segments[-1].end > 85


@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.zeros(32_000, np.float32)])
def test_silence_is_no_error_and_no_words(tiny, samples):
    assert tiny.ours.transcribe(samples).text == ""


def test_english_model_refuses_another_language(tiny, jfk):
    with pytest.raises(WhisperError, match="English alone"):
        tiny.ours.transcribe(jfk, language="de")


def test_unknown_language_lists_the_known(base, jfk):
    with pytest.raises(WhisperError, match="does not know"):
        base.ours.transcribe(jfk, language="klingon")


texts = st.lists(st.integers(0, 49) | st.integers(61, 99), max_size=8)


@given(texts, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_timestamp_rules_equal_transformers(tokens_so_far, seed):
    logits = np.random.default_rng(seed).normal(0, 3, (1, 100)).astype(np.float32)
    settings = GenerationConfig(
        no_timestamps_token_id=60, eos_token_id=50, bos_token_id=50, max_initial_timestamp_index=10
    )
    processor = WhisperTimeStampLogitsProcessor(settings, begin_index=1)
    theirs = processor(torch.tensor([[58, *tokens_so_far]]), torch.from_numpy(logits)).numpy()
    assert np.array_equal(filter_logits(logits, [tokens_so_far], RULES), theirs)


@given(texts.filter(len), st.integers(1, 1500))
@settings(deadline=None)
def test_cut_segments_equals_transformers(tokens_so_far, half_frames):
    frames = 2 * half_frames
    theirs, ahead = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(tokens_so_far), seek_outputs=[None], time_offset=torch.zeros(1, dtype=torch.float64),
        timestamp_begin=61, seek_num_frames=torch.tensor([frames]), time_precision=0.02,
        time_precision_features=0.01, input_stride=2, prev_idx=0, idx=0, return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 1),
    )  # fmt: skip
    segments, our_ahead = cut_segments(tokens_so_far, RULES, frames)
    assert our_ahead == int(ahead)
    assert len(segments) == len(theirs)
    for (start, end, tokens), segment in zip(segments, theirs, strict=True):
        assert 0.02 * start == pytest.approx(float(segment["start"]))
        # transformers derives an end without a timestamp in floating point, and may lose one step of 0.02 s
        stamps = [token for token in tokens_so_far if token >= 61]
        slack = 1e-6 if stamps and stamps[-1] > 61 else 0.0201
        assert 0.02 * end == pytest.approx(float(segment["end"]), abs=slack)
        words = [token for token in segment["tokens"].tolist() if token < 61]
        assert [token for token in tokens if token < 61] == words
