"""Every Whisper has the methods that the protocol names, with its parameters."""

from __future__ import annotations

import inspect

import pytest

from labsupport.whisper.onnx_model import Whisper as OnnxWhisper
from labsupport.whisper.protocol import WhisperModel
from labsupport.whisper.replay import Recorder
from labsupport.whisper.torch_model import Whisper as TorchWhisper

METHODS = [name for name, value in vars(WhisperModel).items() if inspect.isfunction(value) and not name.startswith("_")]


def parameters(owner: type, method: str) -> list[str]:
    return list(inspect.signature(getattr(owner, method)).parameters)


def find_gaps(model: type) -> list[str]:
    """The protocol's methods that a model lacks, or has with other parameters."""
    return [
        name
        for name in METHODS
        if not hasattr(model, name) or parameters(model, name) != parameters(WhisperModel, name)
    ]


def test_the_protocol_names_what_search_calls():
    assert set(METHODS) == {
        "encode", "new_cache", "project_cross_kv", "prefill", "decode_step", "reorder_beams", "select_rows"
    }  # fmt: skip


@pytest.mark.parametrize("model", [TorchWhisper, OnnxWhisper, Recorder])
def test_a_model_has_them_all(model):
    assert find_gaps(model) == []


def test_a_gap_is_found():
    class Lacking(OnnxWhisper):
        def decode_step(self, tokens):
            """Without the cache."""

    assert find_gaps(Lacking) == ["decode_step"]
