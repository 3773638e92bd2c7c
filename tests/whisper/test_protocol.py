"""Every Whisper has the methods that the protocol names, with its parameters."""

from __future__ import annotations

import inspect

import pytest

from labsupport.machine.backend import choose_backend
from labsupport.whisper.protocol import WhisperModel

pytestmark = pytest.mark.both_backends

METHODS = [name for name, value in vars(WhisperModel).items() if inspect.isfunction(value) and not name.startswith("_")]


def list_models() -> list[type]:
    """The classes that this process's framework can load."""
    if choose_backend() == "mindspore":
        from labsupport.whisper import mindspore_model

        return [mindspore_model.Whisper]
    from labsupport.whisper import onnx_model, replay, torch_model

    return [torch_model.Whisper, onnx_model.Whisper, replay.Recorder]


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
        "encode", "new_cache", "project_cross_kv", "prefill", "decode_step", "reorder_beams", "select_rows",
        "cross_attention",
    }  # fmt: skip


@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.__module__)
def test_a_model_has_them_all(model):
    assert find_gaps(model) == []


def test_a_gap_is_found():
    class Lacking(list_models()[0]):
        def decode_step(self, tokens):
            """Without the cache."""

    assert find_gaps(Lacking) == ["decode_step"]
