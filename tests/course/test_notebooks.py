"""Every notebook that is written for MindSpore runs there from top to bottom, as `lab run` does it.

On torch nbval runs them, in a session of its own, and compares what they show.
"""

import pytest

from labsupport.course import runner
from labsupport.course.nbval_kernels import FEW_RUNS

pytestmark = [pytest.mark.mindspore, pytest.mark.slow, pytest.mark.weights]
# A build without notebooks must not look like one whose notebooks pass: find_notebooks raises then.
PATHS = [path for path in runner.find_notebooks() if "mindspore" in runner.read(path)["metadata"]["lab"]["backends"]]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_notebook_runs_on_mindspore(path, monkeypatch):
    for name, value in FEW_RUNS.items():
        monkeypatch.setenv(name, value)
    result = runner.run([path.stem], backend="mindspore", parameters={"fast": True, "clip": "jfk"}).results[0]
    if result.status == "skipped":
        pytest.skip(result.reason)
    assert result.failure is None
    assert result.cells > 1
