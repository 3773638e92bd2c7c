"""The sounds hold what their texts say, and every way is scored on each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from labsupport.benchmarks import long_audio
from labsupport.benchmarks.long_audio import PAUSES, WAYS, make_sounds, score_ways
from labsupport.results.rows import read_rows, results_dir
from labsupport.results.timing import compare
from labsupport.speech import audio, corpus
from labsupport.speech.audio import SAMPLE_RATE


def test_the_sounds_are_the_clip_pauses_noise_and_no_speech():
    plain, pauses, noisy, silence, noise = make_sounds("jfk", 3)
    np.testing.assert_array_equal(plain.samples, audio.read(audio.clip("jfk").path))
    said = corpus.load("held_out")[:3]
    seconds = sum(len(sentence.samples) for sentence in said) / 16_000 + sum(PAUSES)
    assert pauses.minutes * 60 == pytest.approx(seconds)
    assert pauses.text == " ".join(sentence.text for sentence in said)
    assert (plain.text, silence.text, noise.text) == (noisy.text, "", "")
    assert not silence.samples.any()
    assert np.abs(noise.samples).max() > 0.01
    assert all(sound.samples.dtype == np.float32 for sound in (plain, pauses, noisy, silence, noise))


@pytest.mark.weights
@pytest.mark.slow
def test_every_way_is_scored_and_recorded(monkeypatch, capsys):
    sounds = {sound.name: sound for sound in make_sounds("jfk", 2)}
    silence = replace(sounds["silence"], samples=sounds["silence"].samples[: 5 * SAMPLE_RATE])
    monkeypatch.setattr(long_audio, "make_sounds", lambda clip: iter([sounds["jfk"], silence]))
    monkeypatch.setattr(long_audio, "BATCHES", (1, 2))
    monkeypatch.setattr(long_audio, "compare", partial(compare, warmup=0))
    long_audio.run("tiny.en", 2, "jfk")
    rows = read_rows(results_dir())
    names = {row.what for row in rows}
    assert {f"word error rate: {way}" for way in WAYS} < names
    assert {f"peak above the model: {way}" for way in WAYS} < names
    assert {"overlap in batches: batch 2", "speech in batches: batch 1"} < names
    assert {row.value for row in rows if row.what.startswith("word error rate") and row.clip == "jfk"} == {0.0}
    assert "invented words: speech: 0 words a minute" in capsys.readouterr().out


@pytest.mark.weights
@pytest.mark.slow
def test_only_the_way_with_a_detector_says_nothing_in_noise(tiny):
    noise = list(make_sounds("jfk", 2))[-1]
    assert score_ways(tiny.ours, noise)["speech"].invented == (0.0,)
