"""`lab transcribe`: what its options come to, and which of them are refused before the work."""

from __future__ import annotations

import inspect
import json
import os

import odd_audio
import pytest
import typer
from lab_command import invoke

from labsupport import cli
from labsupport.base.errors import LabError
from labsupport.base.paths import AUDIO
from labsupport.cli.transcribe import transcribe
from labsupport.speech.audio import Limits
from labsupport.whisper.files import Input
from labsupport.whisper.guards import Guards

JFK = str(AUDIO / "jfk.flac")


def test_without_options_the_defaults_are_those_of_the_modules(fake):
    assert invoke("transcribe", JFK).output == "One. Two.\n"
    assert fake.options == {
        "language": None, "task": "transcribe", "beams": 5, "batch": 1, "vad": True, "word_timestamps": False,
        "initial_prompt": None, "hotwords": None, "guards": Guards(condition_on_previous_text=True),
    }  # fmt: skip
    defaults = inspect.signature(transcribe).parameters
    limits = Limits(defaults["max_hours"].default * 3600, defaults["max_channels"].default)
    assert (limits, Input().limits) == (Limits(), Limits())


def test_whispers_spellings_are_known(fake):
    options = "--output_format json --beam_size 2 --language German --task translate --temperature 0,1 --best_of 3"
    options += " --logprob_threshold -2 --no_speech_threshold none --compression_ratio_threshold None"
    options += " --condition_on_previous_text --hotwords Ask --initial_prompt Hello. --word_timestamps --batch_size 2"
    done = invoke("transcribe", JFK, *options.split(), "--no-vad")
    assert json.loads(done.stdout)[0]["segments"][1]["text"] == "Two."
    assert fake.options == {
        "language": "de", "task": "translate", "beams": 2, "batch": 2, "vad": False, "word_timestamps": True,
        "initial_prompt": "Hello.", "hotwords": "Ask", "guards": Guards((0.0, 1.0), 3, None, -2.0, None, True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "conditioned"),
    [((), True), (("--condition-on-previous-text",), True), (("--no_condition_on_previous_text",), False)],
)
def test_the_text_before_a_window_is_given_unless_it_is_refused(fake, option, conditioned):
    invoke("transcribe", JFK, *option)
    assert fake.options["guards"].condition_on_previous_text == conditioned


@pytest.mark.parametrize(("given", "threads"), [(("--threads", "3"), "3"), (("--threads=0",), "7"), ((), "7")])
def test_threads_are_those_asked_for(fake, monkeypatch, given, threads):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr("labsupport.machine.backend.loaded_framework", lambda: "torch")
    assert invoke("transcribe", JFK, *given).exit_code == 0
    assert {os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]} == {threads}


def test_mindspore_takes_no_number_of_threads(fake, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr("labsupport.machine.backend.loaded_framework", lambda: "mindspore")
    assert "Leave --threads out" in invoke("transcribe", JFK, "--threads", "2").exception.hint
    assert invoke("transcribe", JFK).exit_code == 0


@pytest.mark.parametrize("width", [80, 120])
def test_help_shows_every_name_whole_at_any_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    shown = invoke("transcribe", "--help").output
    parameters = typer.main.get_command(cli.app).commands["transcribe"].params
    names = [name for each in parameters if not getattr(each, "hidden", False) for name in each.opts]
    assert len(names) >= 30
    assert [name for name in names if name not in shown] == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--best-of", "0"], ["--beams", "x"], ["--beams", "101"], ["--task", "sing"], ["--channel", "0"],
        ["--channels", "all"], ["--logprob-threshold", "warm"], ["--engine", "gpu"], ["--fomat", "srt"],
        ["--max-hours", "-1"],
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_before_the_work(fake, wrong):
    assert invoke("transcribe", JFK, *wrong).exit_code == 2
    assert fake.seconds == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--temperature", "warm"], "no temperatures"),
        (["--language", "klingon"], "does not know the language 'klingon'"),
        (["--format", "pdf"], "no output form 'pdf'"),
        (["--output-dir", ""], "no name"),
        (["--output-dir", JFK], "not a folder"),
        (["--format", "srt,vtt"], "need a folder"),
        (["--channel", "1", "--channels", "separate"], "exclude each other"),
        ([JFK, "--format", "srt"], "cannot be one srt document"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_the_work(fake, wrong, message):
    error = invoke("transcribe", JFK, *wrong).exception
    assert isinstance(error, LabError)
    assert message in error.what
    assert fake.seconds == []


@pytest.mark.parametrize(
    ("options", "asked"),
    [((), (None, "auto")), (("--engine", "onnx"), (None, "onnx")), (("--backend", "torch"), ("torch", "auto"))],
)
def test_the_model_is_loaded_as_the_options_ask(fake, monkeypatch, options, asked):
    given = []

    def load(name, backend, engine, report):
        given.append((backend, engine))
        report("Engine steam: it was there.")
        return fake

    monkeypatch.setattr("labsupport.engine.choosing.load_for_command", load)
    quiet, told = invoke("transcribe", JFK, *options), invoke("transcribe", JFK, "-v", *options)
    assert given == [asked] * 2
    assert quiet.stdout == told.stdout == "One. Two.\n"
    assert "Engine steam" not in quiet.stderr
    assert "Engine steam: it was there." in told.stderr


def test_limits_are_lifted_by_the_option_that_the_error_names(fake, tmp_path):
    path = odd_audio.write(tmp_path, "channels_64.wav")
    refused = invoke("transcribe", path, "--max-channels", "8")
    assert refused.exit_code == 1
    assert "`--max-channels 64`" in refused.stderr
    assert invoke("transcribe", path, "--max-channels", "64").exit_code == 0
    assert "--max-hours 1" in invoke("transcribe", JFK, "--max-hours", "0.001").stderr
