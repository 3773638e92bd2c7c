"""Steps without a search, against the search and the steps that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from small_model import PROMPT, RULES, SMALL, encoder_out, small_model, start_cache

from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache
from labsupport.whisper.replay import Recorder, bandwidth_floor, replay, step_at
from labsupport.whisper.search import beam_search

pytestmark = pytest.mark.both_backends

CACHES = [DynamicCache, PaddedCache, StaticCache]


@pytest.mark.parametrize("kind", CACHES)
def test_a_replay_asks_what_the_search_asked(kind):
    recorder = Recorder(small_model())
    beam_search(recorder, encoder_out(2), PROMPT, RULES, beams=3, limit=8)
    assert {call for call, _ in recorder.calls} == {"prefill", "decode_step", "reorder_beams", "select_rows"}
    again = Recorder(small_model())
    logits = replay(again, kind(), encoder_out(2), recorder.calls)
    assert [call for call, _ in again.calls] == [call for call, _ in recorder.calls]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(again.calls, recorder.calls, strict=True))
    assert np.abs(logits - replay(small_model(), DynamicCache(), encoder_out(2), recorder.calls)).max() < 1e-5


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize(("beams", "reorder"), [(1, None), (3, np.array([1, 1, 0, 3, 5, 5]))])
def test_a_step_at_a_position_can_be_done_again(kind, beams, reorder):
    step, rows = step_at(small_model(), kind(), encoder_out(2), 5, beams, reorder), 2 * beams
    whole = small_model().prefill(np.ones((2, 6), np.int64), start_cache(small_model(), encoder_out(2)))[:, -1]
    for _ in range(3):
        assert step().shape == (rows, SMALL.vocab_size)
        assert np.abs(step() - np.repeat(whole, beams, axis=0)).max() < 1e-5


def test_the_floor_hands_back_what_it_is_given(monkeypatch):
    logits, taken, full = np.zeros(3), [], xp.full

    def note(shape, *rest):
        taken.append(np.prod(shape))
        return full(shape, *rest)

    monkeypatch.setattr(xp, "full", note)
    assert bandwidth_floor(4 * 10_240, xp.asarray(np.zeros(1, np.float32)), logits)() is logits
    assert max(taken) == 10_240  # float32 in the matrix
