"""A part of a notebook that does not run here."""

from __future__ import annotations

import pytest

from labsupport.course.notebook import SKIP_MIME
from labsupport.course.skip import skip


def test_a_skip_shows_its_reason_to_the_learner_and_to_the_run(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    skip("needs CUDA")
    assert shown[0][SKIP_MIME] == {"reason": "needs CUDA"}
    assert shown[0]["text/plain"] == "Skipped: needs CUDA"


def test_a_skip_without_a_reason_is_refused():
    with pytest.raises(ValueError, match="needs a reason"):
        skip(" ")
