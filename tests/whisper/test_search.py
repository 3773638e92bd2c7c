"""Search against transformers' generate, on real speech."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from labsupport.speech import audio, features
from labsupport.whisper.search import Hypothesis, decode, detect_language
from labsupport.whisper.token_filters import make_prompt

pytestmark = [pytest.mark.weights, pytest.mark.slow]


def their_tokens(pair, samples, **options) -> list[int]:
    """transformers' tokens for one window, prompt, end and padding left out."""
    mel = torch.from_numpy(features.log_mel(samples))[None]
    if pair.theirs.generation_config.is_multilingual:
        options["language"] = "en"
    tokens = pair.theirs.generate(mel, force_unique_generate_call=True, **options)[0].tolist()
    rules = pair.ours.rules
    return [token for token in tokens if token < rules.eot or token >= rules.timestamp_begin]


def our_hypothesis(pair, samples, timestamps=True, beams=1) -> Hypothesis:
    ours = pair.ours
    language = "en" if ours.model.config.multilingual else None
    prompt = make_prompt(ours.tokenizer, language, timestamps=timestamps)
    encoder_out = ours.model.encode(features.log_mel(samples)[None])
    return decode(ours.model, encoder_out, prompt, replace(ours.rules, timestamps=timestamps), beams)[0]


@pytest.mark.parametrize("timestamps", [True, False])
def test_greedy_tokens_equal_transformers(pair, jfk, timestamps):
    theirs = their_tokens(pair, jfk, return_timestamps=timestamps)
    assert our_hypothesis(pair, jfk, timestamps).tokens == theirs
    assert len(theirs) > 20


@pytest.mark.parametrize(("timestamps", "beams"), [(True, 2), (False, 5)])
def test_beam_search_tokens_equal_transformers(tiny, jfk, narration, timestamps, beams):
    for samples in (jfk, narration[: 8 * audio.SAMPLE_RATE]):
        theirs = their_tokens(tiny, samples, return_timestamps=timestamps, num_beams=beams)
        assert our_hypothesis(tiny, samples, timestamps, beams).tokens == theirs


@pytest.mark.parametrize("beams", [1, 3])
def test_windows_decoded_together_equal_windows_decoded_alone(tiny, jfk, narration, beams):
    ours = tiny.ours
    mels = np.stack([features.log_mel(part) for part in (jfk, narration[: 15 * audio.SAMPLE_RATE], jfk[:32_000])])
    prompt = make_prompt(ours.tokenizer, None)
    together = decode(ours.model, ours.model.encode(mels), prompt, ours.rules, beams)
    assert len({len(hypothesis.tokens) for hypothesis in together}) == 3  # they end one after the other
    for mel, hypothesis in zip(mels, together, strict=True):
        alone = decode(ours.model, ours.model.encode(mel[None]), prompt, ours.rules, beams)[0]
        assert alone.tokens == hypothesis.tokens
        assert alone.avg_logprob == pytest.approx(hypothesis.avg_logprob, abs=1e-3)
        assert alone.no_speech_prob == pytest.approx(hypothesis.no_speech_prob, abs=1e-3)


def test_base_detects_english(base, jfk):
    encoder_out = base.ours.model.encode(features.log_mel(jfk)[None, :, :3000])
    code, probability = detect_language(base.ours.model, encoder_out, base.ours.tokenizer)[0]
    assert code == "en"
    assert probability > 0.9
