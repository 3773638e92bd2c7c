"""Search against transformers' generate, on real speech; drawing and loops on logits that are known beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import VOCAB, ScriptedModel, likely, says
from small_model import RULES, TIMESTAMP_RULES

from labsupport.speech import audio, features
from labsupport.whisper.search import Hypothesis, decode, detect_language, find_loop, greedy, sample
from labsupport.whisper.token_filters import make_prompt


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


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("timestamps", [True, False])
def test_greedy_tokens_equal_transformers(pair, jfk, timestamps):
    theirs = their_tokens(pair, jfk, return_timestamps=timestamps)
    assert our_hypothesis(pair, jfk, timestamps).tokens == theirs
    assert len(theirs) > 20


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("timestamps", "beams"), [(True, 2), (False, 5)])
def test_beam_search_tokens_equal_transformers(tiny, jfk, narration, timestamps, beams):
    for samples in (jfk, narration[: 8 * audio.SAMPLE_RATE]):
        theirs = their_tokens(tiny, samples, return_timestamps=timestamps, num_beams=beams)
        assert our_hypothesis(tiny, samples, timestamps, beams).tokens == theirs


@pytest.mark.weights
@pytest.mark.slow
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


@pytest.mark.weights
@pytest.mark.slow
def test_base_detects_english(base, jfk):
    encoder_out = base.ours.model.encode(features.log_mel(jfk)[None, :, :3000])
    code, probability = detect_language(base.ours.model, encoder_out, base.ours.tokenizer)[0]
    assert code == "en"
    assert probability > 0.9


# --- drawing at a temperature -----------------------------------------------------------------------------------------

WINDOWS = np.zeros((1, 2, 3), np.float32)


def test_draws_follow_the_softmax_of_the_divided_logits():
    logits = np.full(VOCAB, -np.inf)
    logits[:4] = [1.0, 0.5, 0.0, -0.5]
    model = ScriptedModel(lambda row, step: logits if step == 0 else likely(RULES.eot))
    windows = np.zeros((4000, 1, 1), np.float32)
    found = sample(model, windows, [1], RULES, 0.5, 1, np.random.default_rng(0))
    counts = np.bincount([hypothesis.tokens[0] for hypothesis in found], minlength=4)
    expected = torch.from_numpy(logits[:4] / 0.5).softmax(0).numpy()
    assert np.abs(counts / 4000 - expected).max() < 0.03  # four standard deviations
    assert found[0].avg_logprob == pytest.approx(
        float(np.log(torch.from_numpy(logits).softmax(0)[found[0].tokens[0]])) / 2, abs=1e-5
    )


@pytest.mark.parametrize("temperature", [0.01, 1e-45, 1e-300, 5e-324])
def test_a_low_temperature_draws_what_greedy_takes(temperature):
    """Also one by which no logit can be divided."""
    model, rng = ScriptedModel(says([5, 6, 7])), np.random.default_rng(1)
    assert sample(model, WINDOWS, [1], RULES, temperature, 3, rng) == greedy(model, WINDOWS, [1], RULES)


def test_of_several_draws_the_likeliest_is_given():
    """Row r of the one window says token r, which the script makes likelier the higher r is."""
    model = ScriptedModel(lambda row, step: likely(3 if step == 0 else RULES.eot, margin=5.0))
    found = sample(model, WINDOWS, [1], RULES, 1.5, 30, np.random.default_rng(2))[0]
    assert found.tokens[:1] == [3]
    assert len(found.tokens) == 1


@given(
    st.lists(st.integers(0, 49), max_size=30), st.lists(st.integers(0, 49), min_size=1, max_size=20), st.integers(2, 9)
)
def test_a_loop_is_found_where_it_has_been_said_once(before, period, times):
    tokens = before + period * times
    found = find_loop(tokens, RULES)
    assert found == find_loop_by_trial(tokens)
    if found is not None:
        rest = tokens[found:]
        assert len(rest) >= 36  # three quarters of 48: it is said once


def find_loop_by_trial(tokens: list[int]) -> int | None:
    for period in range(1, 61):
        repeated = 0
        while repeated + period < len(tokens) and tokens[-1 - repeated] == tokens[-1 - repeated - period]:
            repeated += 1
        if repeated + period >= max(48, 4 * period):
            return len(tokens) - repeated
    return None


def test_timestamps_do_not_hide_a_loop():
    looped = [token for i in range(20) for token in (61 + i, 5, 6, 7, 61 + i + 1)]
    assert find_loop(looped, TIMESTAMP_RULES) == 4
    assert find_loop([token for i in range(20) for token in (61 + i, i, i + 1, i + 2)], TIMESTAMP_RULES) is None


def test_a_loop_ends_greedy_only_where_it_is_asked_to():
    model = ScriptedModel(lambda row, step: likely(7))
    assert len(greedy(model, WINDOWS, [1], RULES)[0].tokens) == 447
    assert len(greedy(model, WINDOWS, [1], RULES, stop_loops=True)[0].tokens) == 48


def test_no_speech_is_read_after_the_start_of_the_transcript():
    rules = replace(RULES, sot=1)
    logits = np.stack([likely(RULES.eot), likely(RULES.no_speech), likely(RULES.eot)])

    class Model(ScriptedModel):
        def prefill(self, tokens, cache, logits_to_keep=0):
            return logits[None, -logits_to_keep:].astype(np.float32)

    model = Model(says([5]))
    assert greedy(model, WINDOWS, [9, 1, 2], rules)[0].no_speech_prob > 0.9
    assert greedy(model, WINDOWS, [1, 9, 2], rules)[0].no_speech_prob < 0.1
