"""The caches in a real MindSpore model: equal tokens, and no graph compiled twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_model import start_cache

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache
from labsupport.speech import features
from labsupport.whisper.search import beam_search, greedy
from labsupport.whisper.token_filters import make_prompt

pytestmark = [pytest.mark.mindspore, pytest.mark.weights, pytest.mark.slow]


@pytest.fixture(scope="module")
def tiny() -> whisper.Transcriber:
    return whisper.load("tiny.en", backend="mindspore")


def search(ours, kind, encoder_out, beams: int, limit: int) -> list[int]:
    ours.model.new_cache = kind
    prompt, rules = make_prompt(ours.tokenizer, None, timestamps=False), replace(ours.rules, timestamps=False)
    if beams == 1:
        return greedy(ours.model, encoder_out, prompt, rules, limit)[0].tokens
    return beam_search(ours.model, encoder_out, prompt, rules, beams, limit)[0].tokens


@pytest.mark.parametrize("beams", [1, 5])
def test_tokens_are_the_same_with_every_cache_and_no_graph_is_compiled_twice(tiny, jfk, beams):
    encoder_out = tiny.model.encode(features.log_mel(jfk)[None])
    expected = search(tiny, DynamicCache, encoder_out, beams, 40)
    assert len(expected) > 20
    for kind in (PaddedCache, StaticCache):
        start = xp.graphs_compiled()
        search(tiny, kind, encoder_out, beams, 5)
        warm = xp.graphs_compiled()
        assert start < warm
        assert search(tiny, kind, encoder_out, beams, 40) == expected
        assert xp.graphs_compiled() == warm


def test_static_caches_that_live_at_the_same_time_do_not_mix(tiny, jfk):
    encoder_out = tiny.model.encode(features.log_mel(jfk)[None])
    caches = [start_cache(tiny.model, encoder_out, StaticCache()) for _ in range(2)]
    pieces = [np.array([[50257, 50362]]), np.array([[843, 11]])]
    both = [[tiny.model.prefill(tokens, cache) for cache in caches] for tokens in pieces]
    assert all(np.array_equal(a, b) for a, b in both)
