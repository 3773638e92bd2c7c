"""What the tests of `lab transcribe` share: a model without weights, and files."""

from __future__ import annotations

import pytest
from fake_transcriber import FakeTranscriber

from labsupport.base.paths import AUDIO


@pytest.fixture
def fake(monkeypatch):
    model = FakeTranscriber()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # transcribe leaves the caller's choice, and this process, as it is
    monkeypatch.setattr("labsupport.engine.choosing.load_for_command", lambda name, backend, engine, report: model)
    return model


@pytest.fixture
def copies(tmp_path):
    paths = [tmp_path / f"{number}.flac" for number in range(3)]
    for path in paths:
        path.write_bytes((AUDIO / "jfk.flac").read_bytes())
    return [str(path) for path in paths]
