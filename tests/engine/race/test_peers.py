"""The engines themselves on JFK: from each converted form the text that transformers gives from the checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from labsupport.engine.race import contest
from labsupport.engine.race.entrants import ENTRANTS, choose
from labsupport.engine.race.peers import choose_options
from labsupport.engine.race.sounds import Sound, one_clip, short_clips
from labsupport.speech import text

SLOW_TO_START = "transformers, static cache, compiled"  # a minute of compiling
ELSEWHERE = [each for each in ENTRANTS if each.home == "race"]
HERE = [each for each in ENTRANTS if each.home == "lab" and each.name != SLOW_TO_START]


@pytest.fixture(scope="module")
def expected(tiny) -> str:
    """transformers' text of JFK, normalised."""
    import torch

    from labsupport.speech import audio

    samples = audio.read(audio.clip("jfk").path)
    features = tiny.processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        ids = tiny.theirs.generate(features, do_sample=False, num_beams=1)
    return text.normalise(tiny.processor.batch_decode(ids, skip_special_tokens=True)[0])


def ask(tmp_path, sound: Sound, entrant) -> list[str]:
    """Its texts, in a process of its own."""
    from labsupport.checkpoints.resolve import find_checkpoint

    clips = contest.save_clips(sound, tmp_path)
    start = contest.Starter(find_checkpoint("tiny.en"), clips, tmp_path, 1)
    with start(entrant) as running:
        running.run("load")
        return running.run("transcribe")[2]["texts"]


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("entrant", HERE, ids=lambda each: each.name)
def test_an_engine_of_this_environment_gives_transformers_text(entrant, expected, tmp_path):
    (found,) = ask(tmp_path, one_clip("jfk"), entrant)
    assert text.normalise(found) == expected


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("entrant", ELSEWHERE, ids=lambda each: each.name)
def test_an_engine_of_the_races_environment_gives_transformers_text(race_environment, entrant, expected, tmp_path):
    (found,) = ask(tmp_path, one_clip("jfk"), entrant)
    assert text.normalise(found) == expected


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster-whisper int8, batch 16", "transformers, batch 16", "ours, torch, batch 4"])
def test_clips_side_by_side_stay_apart(name, tmp_path):
    sound = short_clips()
    sound = replace(sound, clips=sound.clips[:5], texts=sound.texts[:5])
    (entrant,) = choose(name)
    found = ask(tmp_path, sound, entrant)
    rates = [text.wer(said, each) for said, each in zip(sound.texts, found, strict=True)]
    assert max(rates) < 0.5  # another clip's text would be wrong in nearly every word
    assert np.mean(rates) < 0.2


def test_only_a_recording_of_more_than_a_window_gets_timestamps():
    assert choose_options(False, False) == {"do_sample": False, "num_beams": 1, "return_timestamps": False}
    assert choose_options(True, True)["language"] == "en"
    assert choose_options(True, True)["return_timestamps"]
    json.dumps(choose_options(True, True))
