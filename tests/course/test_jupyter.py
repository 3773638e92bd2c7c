"""JupyterLab as a learner gets it: on this machine alone, closed by a token, opened on the first notebook."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, ROOT
from labsupport.course import jupyter

pytestmark = pytest.mark.slow
NOTICES = "@jupyterlab/apputils-extension:notification"


def read_when_up(url: str, seconds: float = 60) -> str:
    """JupyterLab prints its address a moment before it listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_open_serves_this_machine_alone_asks_for_the_token_and_shows_the_learner_s_own_copy(tmp_path):
    command = [sys.executable, "-m", "labsupport", "open", "--no-browser", "--allow-root", "--port", "18889"]
    env = os.environ | {"LAB_HOME": str(tmp_path)}
    server = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(found for line in server.stderr if (found := re.search(r"http://\S+token=\w+", line)))[0]
        assert address.startswith("http://127.0.0.1:")
        assert "/lab/tree/notebooks/00_start_here.ipynb" in address
        site, token = re.match(r"(http://[^/]+)/.*token=(\w+)", address).groups()
        assert "00_start_here.ipynb" in read_when_up(f"{site}/api/contents/notebooks?token={token}")
        assert "logits" in read_when_up(f"{site}/api/contents/data/glossary.md?token={token}")  # where pages link to
        notices = json.loads(read_when_up(f"{site}/lab/api/settings/{NOTICES}?token={token}"))["schema"]["properties"]
        assert notices["fetchNews"]["default"] == "false"  # else it asks whether it may fetch news
        assert sorted(path.name for path in (tmp_path / "notebooks").glob("*.ipynb")) == sorted(
            path.name for path in NOTEBOOKS.glob("*.ipynb")
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{site}/api/contents", timeout=60)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no root")
def test_root_is_told_what_to_do_before_anything_starts(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "execve", lambda *command: pytest.fail("it was started"))
    with pytest.raises(CourseError, match="does not run as root") as raised:
        jupyter.serve(browser=False, port=18889, allow_root=False)
    assert "--allow-root" in raised.value.hint


@pytest.mark.skipif(os.name == "nt", reason="no process becomes another one there")
def test_a_damaged_page_is_named_and_keeps_nobody_from_the_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_measure_a_baseline.ipynb").write_text("{")
    started = []
    monkeypatch.setattr(os, "execve", lambda *command: started.append(command))
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    monkeypatch.setattr(subprocess, "run", lambda *command, **how: subprocess.CompletedProcess(command, 0))
    jupyter.serve(browser=False, port=18889, allow_root=True)
    assert len(started) == 1
    assert "no notebook" in caplog.text
    assert "01_measure_a_baseline.ipynb" in caplog.text
    assert (tmp_path / "notebooks" / "15_put_it_together.ipynb").is_file()
