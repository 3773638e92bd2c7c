"""The fast engine loads without a framework, and says what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labsupport.base.errors import CheckpointError, NotAvailable
from labsupport.base.paths import AUDIO, ROOT
from labsupport.engine import loading, runtime

CODE = """
import sys
from labsupport.cli import app
app(["transcribe", "--engine", "fast", "--model", "tiny.en", sys.argv[1]], standalone_mode=False)
print([name for name in ("torch", "mindspore", "transformers") if name in sys.modules])
"""


@pytest.mark.weights
@pytest.mark.slow
def test_the_command_transcribes_and_imports_no_framework():
    command = [sys.executable, "-c", CODE, str(AUDIO / "jfk.flac")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text, imported = done.stdout.splitlines()
    assert "ask what you can do for your country" in text
    assert imported == "[]"


def test_without_openvino_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="OpenVINO is not installed") as raised:
        loading.load("tiny.en", engine="fast")
    assert "--engine onnx" in raised.value.hint


def test_an_unknown_model_is_refused():
    with pytest.raises(CheckpointError, match="no model"):
        loading.load("no-such-model", engine="fast")


def test_other_engines_are_whispers(monkeypatch):
    given = {}
    monkeypatch.setattr(loading.whisper, "load", lambda name, **options: given.update(name=name, **options))
    loading.load("base", backend="torch", engine="torch", device="cpu")
    assert given == {"name": "base", "backend": "torch", "engine": "torch", "device": "cpu"}
