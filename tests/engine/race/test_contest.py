"""A contest of planted engines: order of the rounds, errors that others survive, what is measured."""

from __future__ import annotations

import pytest
from planted_engines import planted

from labsupport.base.errors import BenchError, EngineError
from labsupport.engine.race import contest
from labsupport.engine.race.contest import Alone


def hold(checkpoint, sound, *entrants, rounds=2):
    said = []
    return contest.hold(checkpoint, sound, entrants, rounds, 1, said.append), said


def test_each_is_measured_alone_and_then_in_turns(engines, checkpoint, sound):
    held, said = hold(checkpoint, sound, planted("a", sound.texts, seconds=0.05), planted("b", sound.texts))
    assert held.errors == {}
    assert said == ["planted: a, alone", "planted: b, alone", "planted: round 1 of 2", "planted: round 2 of 2"]
    for name, seconds in (("a", 0.05), ("b", 0.01)):
        alone = held.alone[name]
        assert len(held.times[name]) == 2
        assert all(seconds <= wall < 10 and 0 <= cpu < 10 for wall, cpu in held.times[name])
        assert alone.first >= seconds
        assert 10e6 < alone.peak <= alone.peak_ever < 1e9
        assert alone.disk == 1000
        assert alone.split is None
    timed = held.comparison()
    assert timed["a"].rtf == pytest.approx(timed["a"].median)
    assert timed.speedup("a", "b").value > 1


def test_one_that_cannot_run_is_listed_with_its_error_and_the_others_go_on(engines, checkpoint, sound):
    entrants = [
        planted("no library", opener="open_broken"),
        planted("fails alone", sound.texts, fails_at=1),
        planted("fails in a round", sound.texts, fails_at=3),  # its process has warmed up with one
        planted("dies in a round", sound.texts, fails_at=3, code=9),
        planted("goes on", sound.texts),
    ]
    held, _ = hold(checkpoint, sound, *entrants, rounds=3)
    assert set(held.times) == set(held.answers) == {"goes on"}
    assert len(held.times["goes on"]) == 3
    assert "planted: no such library" in held.errors["no library"]
    assert "planted: no more" in held.errors["fails alone"]
    assert "planted: no more" in held.errors["fails in a round"]
    assert "ended with code 9" in held.errors["dies in a round"]


def test_one_that_needs_the_races_environment_says_how_to_make_it(engines, checkpoint, sound, monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setattr("labsupport.engine.race.environment.FOLDER", tmp_path / "none")
    held, _ = hold(checkpoint, sound, replace(planted("away", sound.texts), home="race"), planted("here", sound.texts))
    assert "./lab race --setup" in held.errors["away"]
    assert set(held.times) == {"here"}


def test_a_task_that_takes_too_long_is_ended(engines, checkpoint, sound, monkeypatch):
    monkeypatch.setattr(contest, "LIMIT", 0.5)
    held, _ = hold(checkpoint, sound, planted("asleep", sound.texts, seconds=60), planted("awake", sound.texts))
    assert held.errors == {"asleep": "asleep took longer than 0.5 s. transcribe"}
    assert set(held.times) == {"awake"}


def test_entrants_that_do_not_fit_into_memory_together_are_refused():
    with pytest.raises(EngineError, match="GB are free") as error:
        contest.check_memory([Alone(0, 0, 1, 10**15, 1)])
    assert "--entrants" in error.value.hint
    contest.check_memory([Alone(0, 0, 1, 1, 1)])


def test_ctrl_c_is_no_entrants_error(sound):
    held = contest.Contest(sound)
    with pytest.raises(KeyboardInterrupt), contest.listing_errors(held, "a"):
        raise KeyboardInterrupt
    with contest.listing_errors(held, "a"):
        raise BenchError("planted", hint="what to do")
    assert held.errors == {"a": "planted what to do"}
