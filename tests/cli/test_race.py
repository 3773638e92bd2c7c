"""`lab race`: what it passes on, its list, and --setup."""

from __future__ import annotations

import pytest
from lab_command import invoke

from labsupport.engine.race import environment, ladder, run
from labsupport.engine.race.environment import Environment


@pytest.fixture
def raced(monkeypatch) -> list:
    given: list = []
    monkeypatch.setattr(run, "run", lambda *arguments: given.extend(arguments))
    return given


def test_options_are_passed_on(raced, tmp_path):
    options = ["--model", "tiny.en", "--clips", "jfk,short", "--entrants", "ours, onnx", "--rounds", "3"]
    assert invoke("race", *options, "--threads", "1", "--plot", tmp_path / "a.svg").exit_code == 0
    model, sounds, entrants, rounds, threads, _, plot, on_ladder = raced
    assert not on_ladder
    assert (model, rounds, threads, plot) == ("tiny.en", 3, 1, tmp_path / "a.svg")
    assert [sound.name for sound in sounds] == ["jfk", "16 short"]
    assert [entrant.name for entrant in entrants] == ["ours, onnx"]


def test_the_ladder_has_entrants_of_its_own(raced):
    assert invoke("race", "--ladder").exit_code == 0
    assert [entrant.name for entrant in raced[2]] == [each.name for each in (*ladder.rungs(), *ladder.ablations())]
    assert raced[-1] is True
    shown = invoke("race", "--ladder", "--list", "--entrants", "without short").output
    assert shown == "without short windows (without timestamps)\n"


def test_the_list_names_everyone(raced):
    shown = invoke("race", "--list").output
    assert "transformers\n" in shown
    assert "openvino-genai int8" in shown
    assert raced == []


@pytest.mark.parametrize(("option", "value"), [("--entrants", "nobody"), ("--clips", "nothing")])
def test_what_is_unknown_is_an_error_before_anything_is_loaded(raced, option, value):
    assert f"'{value}'" in str(invoke("race", option, value).exception)
    assert raced == []


def test_one_round_is_a_wrong_usage(raced):
    assert invoke("race", "--rounds", "1").exit_code == 2


def test_setup_makes_the_environment_and_ends(raced, monkeypatch, tmp_path):
    def make(say):
        say("[1/4] a step")
        return Environment(tmp_path)

    monkeypatch.setattr(environment, "make_environment", make)
    done = invoke("race", "--setup")
    assert (done.exit_code, done.output) == (0, f"[1/4] a step\nThe race's environment is ready: {tmp_path}\n")
    assert raced == []
