"""Texts that are dropped, repeated and exchanged in any order go on as if each had been alone from its start."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from engine_steps import mels
from exact_engine import exact_model
from hypothesis import given
from hypothesis import strategies as st
from small_model import start_cache
from small_whisper import SMALL

from labsupport.engine.step_cache import StepCache, causal_mask

WINDOWS, VOCABULARY = 4, 90


@functools.cache
def model_and_sound():
    model = exact_model(SMALL)
    return model, model.encode(mels(WINDOWS))


def alone(window: int, tokens: list[int]) -> np.ndarray:
    """(vocab,) the logits after a text of one window that was never with others"""
    model, encoded = model_and_sound()
    cache = start_cache(model, encoded[window : window + 1])
    return model.prefill(np.array([tokens]), cache, logits_to_keep=1)[0, -1]


selections = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=3)
steps = st.lists(selections, min_size=1, max_size=4)


def compare(steps: list[list[list[int]]]) -> None:
    """A step after each of `steps`, which are rows that are selected one after the other; numbers count round."""
    model, encoded = model_and_sound()
    cache = start_cache(model, encoded)
    texts = [(window, [7 + window]) for window in range(WINDOWS)]
    model.prefill(np.array([tokens for _, tokens in texts]), cache)
    for number, selected in enumerate(steps):
        for rows in selected:
            rows = [row % len(texts) for row in rows]
            model.select_rows(np.array(rows), cache)
            texts = [texts[row] for row in rows]
        new = [(11 * number + 5 * row) % VOCABULARY for row in range(len(texts))]
        texts = [(window, [*tokens, token]) for (window, tokens), token in zip(texts, new, strict=True)]
        found = model.decode_step(np.array(new), cache)
        np.testing.assert_allclose(found, [alone(*text) for text in texts], atol=1e-5)


@given(steps)
def test_any_rows_go_on_as_if_they_were_alone(steps):
    compare(steps)


def test_windows_that_do_not_move_are_found(monkeypatch):
    """The planted fault: the last windows are not copied to where others have gone."""
    close_gaps = StepCache.close_gaps

    def forget_to_copy(cache: StepCache, kept: np.ndarray) -> np.ndarray:
        before = [array.copy() for array in cache.cross_kv]
        moved = close_gaps(cache, kept)
        for array, old in zip(cache.cross_kv, before, strict=True):
            array[:] = old[: len(array)]
        return moved

    steps = [[[0, 3]], [[1]]]
    compare(steps)
    monkeypatch.setattr(StepCache, "close_gaps", forget_to_copy)
    with pytest.raises(AssertionError):
        compare(steps)


def test_only_windows_that_must_move_are_copied():
    model, encoded = model_and_sound()
    cache = start_cache(model, encoded)
    before = [array.copy() for array in cache.cross_kv]
    held = cache.cross_kv[0]
    model.select_rows(np.array([0, 2, 3]), cache)  # the last goes to the place of the second
    assert np.shares_memory(cache.cross_kv[0], held)
    for array, old in zip(cache.cross_kv, before, strict=True):
        assert np.array_equal(array, old[[0, 3, 2]])
    model.reorder_beams(np.array([2, 1, 0]), cache)
    assert np.array_equal(cache.cross_kv[0], before[0][[0, 3, 2]])


def test_no_token_attends_to_those_after_it():
    assert (causal_mask(2, 3)[0, 0] == 0).tolist() == [[True] * n + [False] * (5 - n) for n in (3, 4, 5)]
