"""Tools in processes of their own: errors that quote their output, and a time limit that ends their children too."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from labsupport.base.errors import SophonError
from labsupport.sophon.processes import run_tool


def run_shell(script: str, folder: Path, seconds: float = 20) -> None:
    run_tool(["sh", "-c", script], folder=folder, log=folder / "log", seconds=seconds)


def test_a_tool_that_fails_is_quoted_with_its_last_lines(tmp_path):
    with pytest.raises(SophonError, match="exit code 3") as caught:
        run_shell("for i in $(seq 50); do echo line $i; done; echo 'error: no such op' >&2; exit 3", tmp_path)
    assert "| error: no such op" in str(caught.value)
    assert "| line 50" in str(caught.value)
    assert "line 1\n" not in str(caught.value)


def test_a_tool_that_cannot_be_started_is_a_sophon_error(tmp_path):
    with pytest.raises(SophonError, match="could not be started"):
        run_tool([tmp_path / "no-such-tool"], folder=tmp_path, log=tmp_path / "log", seconds=5)


def test_a_tool_that_takes_too_long_is_ended_with_its_children_and_no_others(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(SophonError, match=r"longer than 0.5 s(.|\n)*\| begun"):
            run_shell("echo begun; sleep 60 & echo $! > child; wait", tmp_path, seconds=0.5)
        assert not is_running(int((tmp_path / "child").read_text()))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def is_running(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.02)
    return True
