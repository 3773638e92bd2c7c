"""optimum's export and our own graphs: equal numbers, and a planted difference is seen."""

from __future__ import annotations

import numpy as np
import pytest

from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.engine.race.conversions import find_form
from labsupport.engine.race.onnx_comparison import OptimumWhisper, compare_exports
from labsupport.speech import audio, features


@pytest.fixture(scope="module")
def mel() -> np.ndarray:
    samples = audio.read(audio.clip("jfk").path)
    return features.window(features.log_mel(samples, 80), 0)[None]  # (1, 80, 3000)


@pytest.mark.weights
@pytest.mark.slow
def test_optimums_export_gives_our_graphs_numbers(race_environment, mel):
    found = compare_exports(find_checkpoint("tiny.en"), mel, audio.clip("jfk").text)
    assert max(found.encoder, found.prefill, found.step) < 1e-3
    assert all(0 < ours < theirs for ours, theirs in found.nodes.values())
    assert 0 < found.bytes[0] < found.bytes[1]


@pytest.mark.weights
@pytest.mark.slow
def test_other_sound_gives_other_numbers(race_environment, mel, monkeypatch):
    encode = OptimumWhisper.encode
    monkeypatch.setattr(OptimumWhisper, "encode", lambda self, given: encode(self, given[..., ::-1].copy()))
    found = compare_exports(find_checkpoint("tiny.en"), mel, audio.clip("jfk").text)
    assert found.encoder > 0.1
    assert found.prefill < 1e-3


@pytest.mark.weights
@pytest.mark.slow
def test_a_step_after_a_cache_is_the_last_of_the_whole_text(race_environment, mel):
    theirs = OptimumWhisper(find_form(find_checkpoint("tiny.en"), "onnx").folder)
    encoder_out, tokens = theirs.encode(mel), np.array([[50257, 50362, 843, 523]])
    whole, _ = theirs.decode(tokens, encoder_out)
    _, past = theirs.decode(tokens[:, :2], encoder_out)
    _, past = theirs.decode(tokens[:, 2:3], encoder_out, past)
    last, _ = theirs.decode(tokens[:, 3:], encoder_out, past)
    np.testing.assert_allclose(last[0, 0], whole[0, -1], atol=1e-3)
