"""The notebooks that are written for MindSpore run there from top to bottom, as `lab run` does it.

A run of all tests takes a quarter of them, drawn anew each time, for each takes minutes; soak takes all. On torch
nbval runs every notebook, in a session of its own, and compares what they show.
"""

import os
import random

import pytest

from labsupport.course import runner
from labsupport.course.nbval_kernels import FEW_RUNS

pytestmark = [pytest.mark.mindspore, pytest.mark.slow, pytest.mark.weights]
# A build without notebooks must not look like one whose notebooks pass: find_notebooks raises then.
PATHS = [path for path in runner.find_notebooks() if "mindspore" in runner.read(path)["metadata"]["lab"]["backends"]]

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # the same in all processes of a run, which must collect the same tests
DRAWN = sorted(random.Random(RUN).sample(PATHS, max(1, len(PATHS) // 4)))


def run_on_mindspore(path, monkeypatch):
    for name, value in FEW_RUNS.items():
        monkeypatch.setenv(name, value)
    result = runner.run([path.stem], backend="mindspore", parameters={"fast": True, "clip": "jfk"}).results[0]
    if result.status == "skipped":
        pytest.skip(result.reason)
    assert result.failure is None
    assert result.cells > 1


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_a_notebook_that_was_drawn_runs_on_mindspore(path, monkeypatch):
    run_on_mindspore(path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_notebook_runs_on_mindspore(path, monkeypatch):
    run_on_mindspore(path, monkeypatch)
