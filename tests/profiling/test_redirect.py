"""What is written under a profiler goes to its log, and not to the terminal."""

from __future__ import annotations

import logging
import os
import time

import pytest

from labsupport.profiling.redirect import redirect_output, time_profiled


def test_output_of_native_code_and_of_python_goes_to_the_log(tmp_path, capfd, caplog):
    with redirect_output(tmp_path / "log"):
        os.write(2, b"from native code\n")
        print("from Python")
        logging.getLogger("mindspore").warning("a warning")
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "log").read_text().split("\n")[:2] == ["from native code", "from Python"]
    assert caplog.text == ""
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_an_error_in_the_work_stops_the_profiler_and_is_passed_on(tmp_path, capfd):
    calls = []
    with pytest.raises(ZeroDivisionError):
        time_profiled(lambda: calls.append("start"), lambda: 1 / 0, lambda: calls.append("stop"), tmp_path / "log")
    assert calls == ["start", "stop"]


def test_only_the_work_is_timed_and_only_the_profiler_is_silent(tmp_path, capfd):
    wait = lambda: (time.sleep(0.2), print("profiler"))  # noqa: E731
    assert time_profiled(wait, lambda: print("work"), wait, tmp_path / "log") < 0.2
    assert capfd.readouterr().out == "work\n"
    assert (tmp_path / "log").read_text() == "profiler\nprofiler\n"
