"""Predicted memory against transformers' own models, real tensors, and torch's record of allocations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from labsupport import whisper
from labsupport.checkpoints.config import SIZES, Config
from labsupport.checkpoints.resolve import Checkpoint, random_checkpoint
from labsupport.optim import memory_model
from labsupport.optim.attention import get_attention
from labsupport.optim.kv_cache import step_bytes
from labsupport.optim.memory_model import Setting


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_those_of_transformers_model(size):
    with torch.device("meta"):
        model = transformers.WhisperModel(transformers.WhisperConfig(**SIZES[size].to_hf()))
    counts = {side: sum(p.numel() for p in getattr(model, side).parameters()) for side in ("encoder", "decoder")}
    assert memory_model.count_parameters(SIZES[size]) == counts


@given(st.integers(0, 10**12), st.sampled_from(sorted(memory_model.BITS)))
def test_bytes_follow_the_bits(numbers, dtype):
    count = memory_model.to_bytes(numbers, dtype)
    assert 8 * count - 7 <= numbers * memory_model.BITS[dtype] <= 8 * count


def trace_peak(work, folder) -> int:
    """The most bytes that torch's tensors took at one time above the start."""
    with torch.profiler.profile(profile_memory=True) as watched:
        result = work()  # kept: what it holds counts
    watched.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    steps = [e["args"]["Bytes"] for e in sorted(events, key=lambda e: e.get("ts", 0)) if e["name"] == "[memory]"]
    del result
    return int(np.cumsum(steps).max())


@pytest.mark.parametrize(("mode", "windows"), [("sdpa", 1), ("sdpa", 3), ("eager", 1)])
def test_the_encoders_tensors_take_what_is_predicted(mode, windows, tmp_path):
    checkpoint = random_checkpoint("tiny.en")
    model = whisper.load_model(checkpoint, "cpu", attention=get_attention(mode))
    mel = np.zeros((windows, 80, 3000), np.float32)
    predicted = memory_model.predict_encoding(checkpoint.config, Setting(windows=windows, attention=mode))
    taken = trace_peak(lambda: model.encode(mel), tmp_path)
    assert taken == pytest.approx(sum(predicted.values()) - predicted["weights"], rel=0.01)


@pytest.mark.parametrize(("windows", "beams"), [(1, 1), (2, 3)])
def test_caches_take_what_is_predicted(windows, beams):
    config = Config(32, 1, 2, 2, 90, audio_positions=40)
    model = whisper.load_model(Checkpoint("small", None, config, random=True), "cpu")
    cache, rows = model.new_cache(), windows * beams
    model.project_cross_kv(model.encode(np.zeros((windows, 80, 80), np.float32)), cache)
    model.prefill(np.ones((windows, 7), np.int64), cache)
    model.select_rows(np.repeat(np.arange(windows), beams), cache)
    taken = [sum(t.nbytes for pair in pairs for t in pair) for pairs in (cache.self_kv, cache.cross_kv)]
    expected = [memory_model.self_cache_bytes(config, rows, 7), memory_model.cross_cache_bytes(config, windows)]
    assert taken == expected
    logits = model.decode_step(np.ones(rows, np.int64), cache)
    assert logits.nbytes == memory_model.logit_bytes(config, rows)


@pytest.mark.parametrize(("windows", "beams"), [(1, 1), (2, 5)])
def test_what_a_step_reads_is_what_notebook_06_counts(windows, beams):
    config = SIZES["base"]
    counted = sum(step_bytes(config, 99, windows * beams, windows).values())
    unread = 4 * (config.text_positions - 1) * config.d_model  # of the table of positions a step reads one row
    assert memory_model.step_read_bytes(config, Setting(windows=windows, beams=beams, tokens=100)) == counted + unread


def test_the_terms_are_those_of_the_higher_peak():
    base = SIZES["base"]
    assert "self-attention cache" in memory_model.predict(base)
    many = Setting(windows=8, attention="eager")
    assert memory_model.predict(base, many)["attention scores"] == 2 * 8 * 8 * 1500 * 1500 * 4
    assert (
        memory_model.predict(base, Setting("int4"))["weights"] == sum(memory_model.count_parameters(base).values()) / 2
    )


@given(st.integers(1, 64), st.sampled_from(sorted(SIZES)))
def test_devices_together_hold_everything(devices, size):
    terms = memory_model.predict(SIZES[size])
    for how, whole in (("data", "weights"), ("tensor", "activations")):
        part = memory_model.share(terms, devices, how)
        assert part[whole] == terms[whole]
        assert all(0 <= devices * part[term] - terms[term] < devices for term in terms if term != whole)


def test_cards_have_a_source_and_sane_figures():
    cards = memory_model.read_cards()
    assert {"NVIDIA T4", "Ascend 910B"} <= {card.name for card in cards}
    assert all("http" in card.source and 8 <= card.memory <= 200 for card in cards)
    assert all(card.bandwidth is None or 100 < card.bandwidth < 10_000 for card in cards)
