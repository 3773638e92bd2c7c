"""`lab corpus`: its options, its exit codes, and what it prints."""

from __future__ import annotations

import os

import pytest
from lab_command import invoke

from labsupport.base.errors import ScalingError
from labsupport.scaling import corpus
from labsupport.scaling.corpus import Pool, Summary
from labsupport.scaling.worker import Settings


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for; `asked["gives"]` is the summary that it gets."""
    seen = {"gives": Summary(3, done=3)}

    def transcribe_corpus(source, output, settings, reporter, stop, pool, redo):
        seen.update(source=source, output=output, settings=settings, pool=pool, redo=redo, stop=stop)
        reporter.progress(seen["gives"], written=True)
        return seen["gives"]

    monkeypatch.setattr(corpus, "transcribe_corpus", transcribe_corpus)
    return seen


def test_without_options_the_settings_are_the_defaults(asked):
    done = invoke("corpus", "in", "-o", "out")
    assert (done.exit_code, done.stdout) == (0, "3 of 3 files have a row; 0.0 minutes of sound in 0.0.\n")
    assert (asked["source"], asked["output"], asked["pool"]) == ("in", "out", Pool())
    assert asked["settings"] == Settings("tiny.en", threads=os.cpu_count() or 1)
    assert not asked["redo"]


def test_every_option_reaches_the_settings(asked):
    done = invoke(
        "corpus", "in", "--output", "out", "--workers", 3, "--gpus", 0.5, "--address", "head:6379", "--redo",
        "--model", "base", "--engine", "onnx", "--threads", 2, "--language", "German", "--task", "translate",
        "--beams", 1, "--batch", 4, "--no-vad", "--word-timestamps", "--initial-prompt", "p", "--hotwords", "h",
        "--allow-damaged", "--max-hours", 2,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert asked["settings"] == Settings(
        "base", engine="onnx", threads=2, language="de", task="translate", beams=1, batch=4, vad=False,
        word_timestamps=True, initial_prompt="p", hotwords="h", allow_damaged=True, max_hours=2,
    )  # fmt: skip
    assert (asked["pool"], asked["redo"]) == (Pool(3, 0.5, "head:6379"), True)


@pytest.mark.parametrize(("summary", "code"), [(Summary(2, done=2), 0), (Summary(2, done=1, before=1, failed=1), 1)])
def test_a_file_without_a_text_gives_exit_code_1(asked, summary, code):
    asked["gives"] = summary
    assert invoke("corpus", "in", "-o", "out").exit_code == code


def test_a_stopped_corpus_gives_the_code_of_the_signal(asked):
    asked["gives"] = Summary(9, done=2, interrupted=True)
    done = invoke("corpus", "in", "-o", "out")
    assert done.exit_code == 130
    assert "7 wait for the next call" in done.stdout


@pytest.mark.parametrize("arguments", [("in",), ("in", "-o", "out", "--workers", "0"), ("-o", "out")])
def test_wrong_usage_is_exit_code_2(asked, arguments):
    assert invoke("corpus", *arguments).exit_code == 2
    assert "source" not in asked


def test_what_is_no_corpus_is_an_error_of_the_lab(tmp_path):
    done = invoke("corpus", tmp_path, "-o", tmp_path / "out")
    assert isinstance(done.exception, ScalingError)
