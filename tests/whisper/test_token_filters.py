"""The rules of timestamps and suppressed tokens against transformers' logits processors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_model import TIMESTAMP_RULES
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from labsupport.whisper.token_filters import add_context, filter_logits, log_softmax, make_prompt

tokens_so_far = st.lists(st.integers(0, 49) | st.integers(61, 99), max_size=8)


@given(tokens_so_far, st.integers(0, 2**32 - 1))
@example([], 1)
@example([5, 70], 1)  # one timestamp: the next is its pair, or the end; with these logits a word would be likelier
@example([70, 5, 80], 1)
@example([70, 80], 1)
@settings(deadline=None)
def test_timestamp_rules_equal_transformers(tokens, seed):
    logits = np.random.default_rng(seed).normal(0, 3, (1, 100)).astype(np.float32)
    config = GenerationConfig(
        no_timestamps_token_id=60, eos_token_id=50, bos_token_id=50, max_initial_timestamp_index=10
    )
    processor = WhisperTimeStampLogitsProcessor(config, begin_index=1)
    theirs = processor(torch.tensor([[58, *tokens]]), torch.from_numpy(logits)).numpy()
    assert np.array_equal(filter_logits(logits, [tokens], TIMESTAMP_RULES), theirs)


def test_suppressed_tokens_never_come_and_blanks_not_at_the_start():
    from dataclasses import replace

    rules = replace(TIMESTAMP_RULES, suppressed=(3, 4), suppressed_first=(5,), timestamps=False)
    allowed = np.isfinite(filter_logits(np.zeros((2, 100), np.float32), [[], [7]], rules))
    assert [np.flatnonzero(~row).tolist() for row in allowed] == [[3, 4, 5], [3, 4]]


def test_the_logits_given_stay_as_they_are():
    logits = np.zeros((1, 100), np.float32)
    filter_logits(logits, [[]], TIMESTAMP_RULES)
    assert not logits.any()


def test_log_softmax_is_torchs():
    logits = np.random.default_rng(0).normal(0, 50, (3, 7)).astype(np.float32)
    assert np.allclose(log_softmax(logits), torch.from_numpy(logits).log_softmax(-1).numpy(), atol=1e-5)


class Tokens:
    sot, transcribe, translate, no_timestamps, languages = 1, 2, 3, 4, {"de": 9}


def test_a_prompt_names_language_and_task_only_where_the_model_has_a_choice():
    assert make_prompt(Tokens, None) == [1]
    assert make_prompt(Tokens, "de", "translate", timestamps=False) == [1, 9, 3, 4]


@given(st.integers(0, 400), st.integers(0, 112))
def test_context_leaves_half_of_the_positions_to_the_text(previous, hotwords):
    config, start = SimpleNamespace(text_positions=448), [1, 9, 3]
    before, hot = list(range(1000, 1000 + previous)), list(range(2000, 2000 + hotwords))
    prompt = add_context(start, SimpleNamespace(sot_prev=7), before, hot, config)
    assert prompt[-3:] == start
    if not previous and not hotwords:
        assert prompt == start
        return
    assert prompt[0] == 7
    assert len(prompt) - 3 <= 224
    assert prompt[1 : 1 + hotwords] == hot
    kept = prompt[1 + hotwords : -3]
    assert kept == before[len(before) - len(kept) :]
    assert len(kept) == min(previous, 223 - hotwords)
