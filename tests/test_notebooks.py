"""Every notebook runs from top to bottom with its default parameters, as `lab run` does it."""

import pytest

from labsupport import runner

# A build without notebooks must not look like one whose notebooks pass: find_notebooks raises then.
PATHS = runner.find_notebooks()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_notebook_runs(path):
    outcome = runner.run([path.stem]).outcomes[0]
    if outcome.status == "skipped":
        pytest.skip(outcome.reason)
    assert outcome.failure is None
    assert outcome.cells > 1
