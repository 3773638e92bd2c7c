"""Commands that are ended in the middle of their work: what they started ends, too, and what they stored is whole."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest

from labsupport.base.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="nothing watches on Windows"),
]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # the same in all processes of a run, which must collect the same tests
SECONDS = 5  # after which nothing may be left
LAB = {"promise": "A test.", "minutes": 1, "needs": [], "backends": ["torch"], "articles": []}
# A process that computes, as notebook 01 starts them; then native code, which no thread of the kernel's own interrupts.
SPIN = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'while True: pass'])"
BUSY = f"{SPIN}\nimport ctypes; ctypes.PyDLL(None).sleep(600)"


def any_signal(name: str) -> list:
    """A signal drawn for this test in each run, SIGKILL in every second; soak takes all."""
    rng = random.Random(f"{RUN} {name}")
    drawn = rng.choice([signal.SIGKILL, rng.choice(SIGNALS[1:])])
    return [pytest.param(each, marks=[] if each == drawn else pytest.mark.soak) for each in SIGNALS]


class Command:
    """A command of the lab in a process of its own; all that it starts, at any depth, carries a mark."""

    def __init__(self, *arguments: str, home: Path, **variables: str):
        self.mark = uuid.uuid4().hex
        env = (
            os.environ
            | {"LAB_HOME": str(home), "LAB_RESULTS": str(home / "results"), "LAB_TEST_MARK": self.mark}
            | variables
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labsupport", *arguments], cwd=ROOT, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def started(self) -> list[str]:
        """The command lines of those that are there: the command itself, and all below it."""
        return [each for process in psutil.process_iter() if (each := self.line_of(process))]

    def line_of(self, process: psutil.Process) -> str | None:
        try:
            ours = process.environ().get("LAB_TEST_MARK") == self.mark
            return " ".join(process.cmdline()) if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def wait_for(self, *parts: str, seconds: float = 240) -> None:
        """Until for each of the parts there is a process with it in its command line."""
        end = time.monotonic() + seconds
        while not all(any(part in line for line in self.started()) for part in parts):
            assert self.process.poll() is None, self.process.communicate()[0]
            if time.monotonic() > end:
                raise AssertionError(f"{parts} did not start: {self.end(signal.SIGKILL)}")
            time.sleep(0.1)

    def end(self, number: int) -> tuple[int, str, list[str]]:
        """Its exit code, what it printed, and what is left of it after SECONDS."""
        self.process.send_signal(number)
        end = time.monotonic() + SECONDS
        while (left := self.started()) and time.monotonic() < end:
            time.sleep(0.1)
        if self.process.poll() is None and left:
            os.killpg(self.process.pid, signal.SIGKILL)
        printed = self.process.communicate()[0]
        return self.process.returncode, printed, left


def write_notebook(folder: Path, name: str, *sources: str) -> str:
    parameters = nbformat.v4.new_code_cell('backend = ""\nfast = True', metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# A test"), parameters, *map(nbformat.v4.new_code_cell, sources)]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"lab": LAB}), path)
    return str(path)


@pytest.mark.parametrize("number", any_signal("run"))
def test_a_run_leaves_no_kernel_and_nothing_that_a_kernel_started(tmp_path, number):
    notebooks = [write_notebook(tmp_path, "01_a", "1"), write_notebook(tmp_path, "02_b", BUSY)]
    run = Command("run", *notebooks, home=tmp_path / "lab")
    run.wait_for("while True: pass")
    code, printed, left = run.end(number)
    assert left == []
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 128 + number
        assert "Stopped. 1 of 2 notebooks passed and are stored" in printed.replace("\n", " ")
        assert "Traceback" not in printed


def test_a_run_that_is_killed_at_random_points_loses_and_doubles_nothing(tmp_path, kill_times):
    notebooks = [write_notebook(tmp_path, f"0{i}_a", f"{SPIN}\nimport time; time.sleep(1)") for i in range(1, 4)]
    home, before = tmp_path / "lab", {}
    for seconds in kill_times(12):
        if len(before) == len(notebooks):  # nothing is left to be ended: from the beginning
            shutil.rmtree(home)
            before = {}
        run = Command("run", *notebooks, home=home)
        time.sleep(seconds)
        assert run.end(signal.SIGKILL)[2] == []
        results = read_results(home)
        assert results == results | before
        assert set(results.values()) <= {"passed"}
        assert len(results) == len({name.split(".")[0] for name in results}) <= len(notebooks)
        before = results
    run = Command("run", *notebooks, home=home)
    printed = run.process.communicate(timeout=300)[0]
    assert "3 passed, 0 failed" in printed
    assert not [path for path in home.rglob("*") if path.suffix in (".part", ".tmp")]


def read_results(home: Path) -> dict[str, str]:
    return {path.name: json.loads(path.read_text())["status"] for path in (home / "runs").glob("0*.json")}


@pytest.mark.weights
@pytest.mark.parametrize("number", any_signal("benchmark"))
def test_a_benchmark_leaves_no_worker(tmp_path, number):
    bench = Command("bench", "engines", "--model", "tiny.en", "--runs", "1000", home=tmp_path / "lab")
    bench.wait_for("results.worker")
    time.sleep(2)
    code, printed, left = bench.end(number)
    assert left == []
    if number != signal.SIGKILL:
        assert (code, "Stopped. The rows" in printed, "Traceback" in printed) == (128 + number, True, False)


@pytest.mark.parametrize("number", any_signal("test"))
def test_tests_leave_no_pytest_no_worker_and_no_check(tmp_path, number):
    test = Command("test", "tests/test_kills.py", "-k", "sleeper", "-n", "2", home=tmp_path / "lab")
    test.wait_for("-m pytest", "sleep 600")
    code, printed, left = test.end(number)
    assert left == []
    assert code == (-number if number == signal.SIGKILL else 128 + number), printed


@pytest.mark.skipif("LAB_TEST_MARK" not in os.environ, reason="what the test above runs")
def test_sleeper():
    subprocess.run(["sleep", "600"], check=True)


@pytest.mark.parametrize("number", any_signal("open"))
def test_jupyterlab_leaves_no_server_no_kernel_and_nothing_that_a_kernel_started(tmp_path, number):
    start_up = tmp_path / "profile_default" / "startup"
    start_up.mkdir(parents=True)
    (start_up / "00.py").write_text(SPIN)  # what a learner's first cell may do
    options = ("--no-browser", "--allow-root", "--port", "18890")
    lab = Command("open", *options, home=tmp_path / "lab", IPYTHONDIR=str(tmp_path))
    address = next(found for line in lab.process.stdout if (found := re.search(r"(http://[^/]+)/\S*token=(\w+)", line)))
    start_kernel(*address.groups())
    lab.wait_for("ipykernel_launcher", "while True: pass")
    assert lab.end(number)[2] == []


def start_kernel(site: str, token: str) -> None:
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{site}/api/kernels", b'{"name": "python3"}', headers)
    for attempt in range(20):  # the address is printed a moment before anybody listens there
        try:
            urllib.request.urlopen(request, timeout=60).close()
            return
        except urllib.error.URLError:
            if attempt == 19:
                raise
            time.sleep(0.5)
