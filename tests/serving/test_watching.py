"""A watched model computes the same, and stops before the next step when it is told."""

from __future__ import annotations

import numpy as np
import pytest
from scripted_model import ScriptedModel, says
from small_model import PROMPT, RULES

from labsupport.serving.watching import WatchedModel
from labsupport.whisper.search import greedy


def test_it_computes_the_same():
    model = ScriptedModel(says([1, 2, 3], [4]))
    expected = greedy(model, np.zeros((2, 1, 1)), PROMPT, RULES)
    assert greedy(WatchedModel(model, lambda: None), np.zeros((2, 1, 1)), PROMPT, RULES) == expected
    assert WatchedModel(model, lambda: None).config is model.config
    assert not hasattr(WatchedModel(model, lambda: None), "language_logits")


def test_it_stops_before_the_next_step():
    steps = 0

    def check():
        nonlocal steps
        steps += 1
        if steps > 5:
            raise KeyError

    model = WatchedModel(ScriptedModel(says([1] * 100)), check)
    with pytest.raises(KeyError):
        greedy(model, np.zeros((1, 1, 1)), PROMPT, RULES)
    assert steps == 6


def test_the_encoder_is_watched_too():
    def check():
        raise KeyError

    with pytest.raises(KeyError):
        WatchedModel(ScriptedModel(says([1])), check).encode(np.zeros((1, 80, 3000), np.float32))
