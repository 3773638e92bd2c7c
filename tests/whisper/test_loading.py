"""Which engine a name means, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest

from labsupport import whisper
from labsupport.base.errors import NotAvailable, WhisperError
from labsupport.whisper.loading import choose_engine


def test_an_unknown_engine_is_refused():
    with pytest.raises(WhisperError, match="no engine 'steam'"):
        whisper.load("tiny.en", engine="steam")


def test_engine_and_backend_exclude_each_other():
    with pytest.raises(WhisperError, match="'onnx' and the backend 'mindspore' exclude each other"):
        choose_engine("onnx", "mindspore")
    assert choose_engine("torch", "torch") == "torch"
    assert choose_engine(None, "torch") is None


def test_a_device_or_an_attention_mode_is_not_the_onnx_engines():
    with pytest.raises(WhisperError, match="on the CPU"):
        whisper.load("tiny.en", engine="onnx", attn_implementation="flash")


def test_a_missing_runtime_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(NotAvailable, match="not installed"):
        whisper.load("tiny.en", engine="onnx")


@pytest.mark.weights
def test_torch_is_an_engine_too():
    assert whisper.load("tiny.en", engine="torch").model.backend == "torch"
