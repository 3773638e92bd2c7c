"""Each rounding alone changes what comes out, a little; none changes it nothing at all."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from small_model import start_cache
from small_whisper import SMALL

from labsupport.engine import store
from labsupport.engine.model import Whisper
from labsupport.engine.rounding import EXACT, Rounding
from labsupport.engine.runtime import can_multiply_bfloat16, compile_graph

MELS = np.random.default_rng(0).normal(size=(1, 80, 60)).astype(np.float32)
TEXT = np.array([[7, 1, 90, 13]])


def logits(rounding: Rounding) -> np.ndarray:
    graphs = {name: compile_graph(graph, rounding) for name, graph in store.build_graphs(SMALL, rounding)}
    model = Whisper(SMALL.config, graphs.__getitem__)
    cache = start_cache(model, model.encode(MELS))
    return np.concatenate([model.prefill(TEXT, cache)[0], model.decode_step(TEXT[:, 0], cache)])


@pytest.mark.parametrize("name", [field.name for field in fields(Rounding)])
def test_each_changes_a_little(monkeypatch, name):
    if name == "bfloat16" and not can_multiply_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    monkeypatch.setattr(store, "calibration_windows", lambda config: iter(MELS))
    exact = logits(EXACT)
    change = np.abs(logits(replace(EXACT, **{name: True})) - exact).max() / np.abs(exact).max()
    assert 0 < change < 0.05


def test_exact_is_no_rounding_at_all():
    assert EXACT.describe() == [False] * len(fields(Rounding))
