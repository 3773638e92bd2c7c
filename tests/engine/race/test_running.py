"""The tasks of an entrant's process, and cutting at quiet moments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.engine.race import running


def test_a_process_loads_when_it_is_told_to_and_then_transcribes(tmp_path, monkeypatch):
    np.save(tmp_path / "0.npy", np.zeros(10, np.float32))
    order = {
        "opener": "planted_engines:open_planted", "folder": str(tmp_path), "threads": 1, "multilingual": False,
        "settings": {"texts": [" a text "]}, "clips": [str(tmp_path / "0.npy")],
    }  # fmt: skip
    tasks = running.make_tasks(json.dumps(order))
    assert list(tasks) == ["load", "transcribe", "split"]
    with pytest.raises(IndexError):
        tasks["transcribe"]()
    tasks["load"]()
    assert tasks["transcribe"]() == {"texts": ["a text"], "tokens": 8}
    assert tasks["split"]() is None


def test_batches_are_in_order_and_the_last_may_be_shorter():
    assert running.in_batches("abcde", 2) == ["ab", "cd", "e"]


@given(st.integers(1, 400_000), st.integers(20_000, 120_000), st.integers(0, 100))
def test_parts_make_up_the_whole_and_none_is_too_long(length, longest, seed):
    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    parts = running.cut_at_quiet(samples, longest)
    assert np.array_equal(np.concatenate(parts), samples)
    assert all(0 < len(part) <= longest for part in parts)


def test_a_cut_lies_in_the_pause():
    samples = np.ones(30 * 16_000, np.float32)
    samples[27 * 16_000 : 28 * 16_000] = 0
    first, _ = running.cut_at_quiet(samples, 29 * 16_000)
    assert 27 * 16_000 < len(first) < 28 * 16_000
