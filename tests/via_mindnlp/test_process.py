"""The process for MindNLP: its result, its failures, and the error where MindNLP is not installed."""

from __future__ import annotations

import sys

import pytest

from labsupport.base.errors import MindnlpError, NotAvailable
from labsupport.via_mindnlp import process
from labsupport.via_mindnlp.bark import run_bark
from labsupport.via_mindnlp.process import measure_apart, run_to_end, try_call
from labsupport.via_mindnlp.whisper import run_whisper

ECHO = """
import atexit
from pathlib import Path

atexit.register(Path("cleaned_up").touch)

def measure(model, pairs):
    print("ignored")
    return {"model": model, "pairs": pairs + 1}
"""


def test_a_module_measures_writes_its_result_and_ends_at_once(tmp_path):
    (tmp_path / "echo.py").write_text(ECHO)
    assert measure_apart("echo", ["tiny.en", 2], str(tmp_path), 60) == {"model": "tiny.en", "pairs": 3}
    assert {file.name for file in tmp_path.iterdir()} - {"__pycache__"} == {"echo.py", "result.json"}


def test_a_process_that_fails_raises_with_its_last_lines(tmp_path):
    with pytest.raises(MindnlpError, match="no such model"):
        run_to_end([sys.executable, "-c", "raise SystemExit('no such model')"], str(tmp_path), 60)


def test_a_process_that_does_not_end_is_stopped(tmp_path):
    with pytest.raises(MindnlpError, match=r"0\.5 s"):
        run_to_end([sys.executable, "-c", "import time; time.sleep(60)"], str(tmp_path), 0.5)


def test_a_call_gives_its_error_or_none():
    assert try_call(lambda: 1) is None
    assert try_call(lambda: {}.x) == "AttributeError: 'dict' object has no attribute 'x'"
    with pytest.raises(ZeroDivisionError):  # no failure of MindNLP's: a fault of ours
        try_call(lambda: 1 / 0)


@pytest.mark.parametrize("run", [run_whisper, run_bark])
@pytest.mark.parametrize("missing", ["mindnlp", "mindspore"])
def test_without_mindnlp_the_error_names_it(monkeypatch, run, missing):
    monkeypatch.setattr(process, "is_installed", lambda package: package != missing)
    with pytest.raises(NotAvailable, match="MindNLP is not installed"):
        run()
