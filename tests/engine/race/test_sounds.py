"""What is raced over: lengths, texts, and pauses that hold no speech."""

from __future__ import annotations

import numpy as np
import pytest

from labsupport.base.errors import EngineError
from labsupport.engine.race import sounds
from labsupport.speech import audio, corpus


def test_ten_minutes_with_pauses_hold_the_narration_four_times():
    sound, narration = sounds.with_pauses(), audio.read(audio.clip("narration").path)
    (samples,) = sound.clips
    assert sound.seconds == 600
    assert samples.dtype == np.float32
    assert sound.text.split() == 4 * audio.clip("narration").text.split()
    assert sound.speech == pytest.approx(4 * len(narration) / 16_000)
    loud = np.abs(samples[: 600 * 16_000]).reshape(-1, 16_000).max(axis=1) > 0.02
    assert 0.3 < np.mean(~loud) < 0.5  # of the seconds nobody speaks
    parts = samples[: len(narration) + 100 * 16_000]
    assert np.array_equal(parts[: 5 * 16_000], narration[: 5 * 16_000])
    assert np.array_equal(sounds.with_pauses().clips[0], samples)  # the same each time


def test_sixteen_clips_are_sentences_that_were_held_out():
    sound = sounds.short_clips()
    sentences = corpus.load("held_out")[:16]
    assert sound.texts == [sentence.text for sentence in sentences]
    assert len(sound.clips) == 16
    assert max(map(len, sound.clips)) < 30 * 16_000


def test_sounds_are_chosen_by_name():
    chosen = sounds.choose("jfk, narration")
    assert [each.name for each in chosen] == ["jfk", "narration"]
    assert chosen[0].seconds == pytest.approx(11, abs=0.1)
    with pytest.raises(EngineError, match="'nope'"):
        sounds.choose("jfk,nope")
