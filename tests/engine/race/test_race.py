"""The race as a whole, in its quick form: real engines on JFK, a skipper among them, and what cannot be raced."""

from __future__ import annotations

import pytest
from planted_engines import planted

from labsupport.base.errors import EngineError
from labsupport.engine.race import run
from labsupport.engine.race.entrants import choose
from labsupport.engine.race.sounds import one_clip
from labsupport.machine.roofline import Roofline
from labsupport.results import rows

SKIPPER = {"name": "tiny.en", "skip": 0.3}


@pytest.fixture(autouse=True)
def quick_roofline(monkeypatch):
    limits = Roofline("planted", 10e9, 10e9, {"float32": 100e9})
    monkeypatch.setattr(run, "find_limits", lambda: limits)


@pytest.mark.weights
@pytest.mark.slow
def test_a_real_engine_that_leaves_out_the_end_of_the_sound_never_wins(engines, tmp_path, capsys):
    from dataclasses import replace

    honest = choose("faster-whisper int8;ours, onnx")[:1] + choose("ours, onnx")[:1]
    skipper = replace(planted("skipper", opener="open_skipping"), settings=SKIPPER)
    said: list[str] = []
    plot = tmp_path / "race.svg"
    (outcome,) = run.run("tiny.en", [one_clip("jfk")], [*honest, skipper], 2, 1, said.append, plot)
    assert {each.entrant.name for each in outcome.ranking} == {"faster-whisper int8", "ours, onnx"}
    assert outcome.find("skipper").score.word_count < 20
    printed = capsys.readouterr().out
    assert "Does not count: skipper: " in printed
    assert "tiny.en, jfk, 1 threads" in printed
    assert "encoder of roofline" in printed
    assert plot.read_text().count("<svg") == 1
    found = {row.what: row for row in rows.read_rows(rows.results_dir())}
    assert found["transcription: ours, onnx"].against == "faster-whisper int8"
    assert "does not count" in found["transcription: skipper"].note
    assert 0 < found["decode_step: ours, onnx"].value < found["transcription: ours, onnx"].value * 5
    assert found["transcription: faster-whisper int8"].note.startswith("faster-whisper 1.")
    assert found["transcription: ours, onnx"].threads == 1


@pytest.mark.weights
def test_a_race_in_which_nobody_finishes_is_an_error(engines):
    with pytest.raises(EngineError, match="No entrant finished") as error:
        run.run("tiny.en", [one_clip("jfk")], [planted("broken", opener="open_broken")], 2, 1, print)
    assert "planted: no such library" in error.value.where


def test_what_cannot_be_raced_is_told_at_once():
    with pytest.raises(EngineError, match="'small'"):
        run.run("small", [], [], 2, 1, print)
    with pytest.raises(EngineError, match="no interval"):
        run.run("tiny.en", [], [], 1, 1, print)


def test_entrants_without_their_environment_are_told_before_the_race(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("labsupport.engine.race.environment.FOLDER", tmp_path / "none")
    chosen = choose("sherpa;ours")
    run.say_what_is_missing(chosen, said.append)
    (line,) = said
    assert line.endswith(f"2 of {len(chosen)} entrants need it: ./lab race --setup")
    run.say_what_is_missing(choose("ours"), said.append)
    assert len(said) == 1
