"""What the race's tests share: where planted engines are found, and a sound with a known text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from labsupport.base.paths import ROOT
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.race import environment
from labsupport.engine.race.sounds import Sound
from labsupport.speech import audio

NO_ENVIRONMENT = f"the race's environment is not here; {environment.SETUP} makes it"


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # `run` sets them for the whole process
        monkeypatch.setenv(name, os.environ.get(name, "1"))


@pytest.fixture
def engines(monkeypatch):
    """Entrants' processes find `planted_engines`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "helpers"))


@pytest.fixture
def sound() -> Sound:
    """The narration's text, over one second of silence."""
    return Sound("planted", [np.zeros(16_000, np.float32)], [audio.clip("narration").text], 1.0)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    """A folder without weights: planted engines need none."""
    folder = Path(tmp_path / "model")
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 1000)
    return Checkpoint("tiny.en", folder, SIZES["tiny.en"])


@pytest.fixture
def race_environment() -> environment.Environment:
    if (found := environment.find_environment()) is None:
        pytest.skip(NO_ENVIRONMENT)
    return found
