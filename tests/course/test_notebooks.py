"""Every notebook runs from top to bottom with its default parameters, as `lab run` does it, on MindSpore.

On torch nbval runs them, in the same session, and compares what they show.
"""

import pytest

from labsupport.course import runner
from labsupport.machine.backend import FRAMEWORKS, is_installed

# A build without notebooks must not look like one whose notebooks pass: find_notebooks raises then.
PATHS = runner.find_notebooks()


@pytest.mark.parametrize("backend", sorted(set(FRAMEWORKS) - {"torch"}))
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_notebook_runs(path, backend):
    if backend not in runner.read(path)["metadata"]["lab"]["backends"]:
        pytest.skip(f"{path.stem} is not written for {backend}")
    if not is_installed(backend):
        pytest.skip(f"{backend} is not installed here")
    outcome = runner.run([path.stem], backend=backend).outcomes[0]
    if outcome.status == "skipped":
        pytest.skip(outcome.reason)
    assert outcome.failure is None
    assert outcome.cells > 1
