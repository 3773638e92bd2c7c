"""Quantised models are saved and loaded; a file that is not as described is refused with the reason."""

from __future__ import annotations

import functools
import json
import os
import random

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from small_folder import mutate, refuses

from labsupport import whisper
from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.quantization import Scheme
from labsupport.whisper import quantized_files
from labsupport.whisper.quantized import IntegerLinear, QuantizedLinear, quantize_model

SMALL = Checkpoint("small", None, Config(64, 2, 2, 2, 90, audio_positions=40), random=True)
MEL = np.random.default_rng(0).normal(size=(1, 80, 80)).astype(np.float32)
GROUPS = functools.partial(QuantizedLinear.of, scheme=Scheme(4, 32, False))
RECIPES = {
    "integers": {"make": IntegerLinear.of, "embedding": IntegerLinear.of},
    "groups, one layer skipped": {"make": GROUPS, "skip": ["encoder.layers.0.fc1"]},
    "groups, embedding by tensor": {
        "make": GROUPS, "embedding": functools.partial(QuantizedLinear.of, scheme=Scheme(8, "tensor"))
    },
}  # fmt: skip


def logits(model) -> np.ndarray:
    cache = model.new_cache()
    model.project_cross_kv(model.encode(MEL), cache)
    return model.prefill(np.array([[1, 5, 9]]), cache)


def quantised(recipe: str = "integers"):
    return quantize_model(whisper.load_model(SMALL, "cpu"), **RECIPES[recipe])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loaded_model_is_the_saved_one(recipe, tmp_path):
    made = quantised(recipe)
    quantized_files.save(made, tmp_path / "model.safetensors", rest="float32")
    again = quantized_files.load(tmp_path / "model.safetensors")
    assert np.array_equal(logits(again), logits(made))
    assert not again.training


def test_what_has_no_codes_is_stored_in_half_precision(tmp_path):
    made, path = quantised(), tmp_path / "model.safetensors"
    quantized_files.save(made, path)
    stored = load_file(path)
    assert stored["encoder.conv1.weight"].dtype == torch.float16
    assert stored["decoder.embed_tokens.linear.codes"].dtype == torch.int8
    assert stored["decoder.embed_tokens.linear.scale"].dtype == torch.float32
    again = quantized_files.load(path)
    assert all(t.dtype != torch.float16 for t in again.state_dict().values())
    assert np.abs(logits(again) - logits(made)).max() < 0.05 * np.abs(logits(made)).max()


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "model.safetensors"
    quantized_files.save(quantised("groups, one layer skipped"), path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    def change(tensors=None, **entries):
        save_file(tensors or load_file(path), path, metadata | entries)
        return path

    return change


def without(tensors, name):
    return {other: tensor for other, tensor in tensors.items() if other != name}


def test_another_format_is_refused(stored):
    with pytest.raises(OptimError, match="no quantised model: something else"):
        quantized_files.load(stored(format="something else"))


def test_a_plain_checkpoint_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(OptimError, match="no such entry"):
        quantized_files.load(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("end", [0, 100, -1])
def test_a_file_cut_short_is_refused(stored, end):
    path = stored()
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(OptimError, match="damaged or cut short"):
        quantized_files.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OptimError, match="missing"):
        quantized_files.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "entries",
    [
        {"config": "{}"},
        {"config": "no json"},
        {"config": "[]"},
        {"config": "[" * 100_000},
        {"config": json.dumps(SMALL.config.to_hf() | {"encoder_layers": 10**9})},
        {"config": json.dumps(SMALL.config.to_hf() | {"d_model": "64"})},
        {"config": json.dumps(SMALL.config.to_hf() | {"vocab_size": -90})},
        {"layers": "[]"},
        {"layers": json.dumps({"encoder": {"kind": "integer"}})},
        {"layers": json.dumps({"": {"kind": "integer"}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": ["integer"]})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": ["integer"]}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "weight-only", "granularity": 0}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "weight-only", "granularity": -32}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "weight-only", "granularity": None}})},
        {"layers": json.dumps({"encoder.layers.9.fc1": {"kind": "integer"}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "unknown"}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "integer", "bits": 4}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "weight-only", "granularity": 7}})},
        {"layers": json.dumps({"encoder.layers.0.fc2": {"kind": "weight-only", "colour": "red"}})},
    ],
)
def test_a_description_that_fits_no_whisper_is_refused(stored, entries):
    with pytest.raises(OptimError, match="fits no Whisper"):
        quantized_files.load(stored(**entries))


def test_descriptions_damaged_at_random_are_read_or_refused_and_nothing_else(stored):
    """The seed is LAB_FUZZ_SEED, else 17."""
    rng, path, refused = random.Random(int(os.environ.get("LAB_FUZZ_SEED", "17"))), stored(), 0
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    for _ in range(150):
        name = rng.choice(["config", "layers"])
        spoiled = json.dumps(mutate(json.loads(metadata[name]), rng))
        stored(**{name: spoiled})
        refused += refuses(lambda: quantized_files.load(path), OptimError)
    assert refused > 50


def test_tensors_other_than_described_are_refused(stored):
    path = stored()
    tensors, name = load_file(path), "encoder.layers.1.fc1.codes"
    with pytest.raises(OptimError, match=f"1 tensors are missing, {name}"):
        quantized_files.load(stored(without(tensors, name)))
    with pytest.raises(OptimError, match="1 tensors too many, more"):
        quantized_files.load(stored(tensors | {"more": torch.zeros(1)}))
    with pytest.raises(OptimError, match=r"int8 \(256, 64\), not torch.uint8 \(256, 32\)"):
        quantized_files.load(stored(tensors | {name: torch.zeros(256, 64, dtype=torch.int8)}))


def test_a_save_that_fails_leaves_the_old_file(stored, monkeypatch):
    path = stored()
    before = path.read_bytes()

    def fail(_tensors, part, _metadata):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(quantized_files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        quantized_files.save(quantised(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
