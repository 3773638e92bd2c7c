"""The packages' weights against the CTranslate2 library and transformers; damaged files are refused."""

from __future__ import annotations

import os
import random
import shutil
import struct

import numpy as np
import pytest
from small_folder import flip, refuses

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints import ctranslate2_reader, random_weights
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint, find_part, read_parts


@pytest.fixture(params=["tiny.en", "base"])
def original(request, tmp_path):
    """The package's own files, as a folder for the CTranslate2 library."""
    parts = [find_part(*part) for part in PACKAGED[request.param].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return request.param, tmp_path


@pytest.mark.slow
@pytest.mark.weights
def test_converted_weights_compute_what_the_originals_do(original, request, jfk):
    import ctranslate2 as library
    import torch

    name, folder = original
    pair = request.getfixturevalue(name.partition(".")[0])
    features = pair.processor(jfk, sampling_rate=16_000, return_tensors="pt").input_features
    model = library.models.Whisper(str(folder), compute_type="float32", intra_threads=2)
    mel = library.StorageView.from_array(features.numpy())
    prompt = [50257, 50362] if name == "tiny.en" else [50258, 50259, 50359, 50363]
    with torch.inference_mode():
        frames = pair.theirs.model.encoder(features).last_hidden_state.numpy()
        tokens = pair.theirs.generate(features)[0].tolist()
    apart = np.abs(np.array(model.encode(mel, to_cpu=True)) - frames)
    assert np.quantile(apart, 0.999) < 3e-4
    assert apart.max() < 5e-3  # base amplifies rounding in a few frames, as much as the CPU has it
    expected = model.generate(mel, [prompt], beam_size=1, suppress_tokens=[-1])[0].sequences_ids[0]
    assert len(expected) > 20
    assert tokens == expected


@pytest.mark.weights
def test_every_converted_number_is_the_packages_own():
    """The bytes of model.bin, found again by search instead of by our reader."""
    buffer = read_parts("tiny.en", PACKAGED["tiny.en"])
    for name, array in find_checkpoint("tiny.en").tensors():
        half = array.astype(np.float16)
        assert np.array_equal(half, array), name  # nothing was rounded
        assert half.tobytes() in buffer, name


@pytest.mark.weights
@pytest.mark.parametrize("name", PACKAGED)
def test_converted_names_and_shapes_are_those_of_transformers(name):
    checkpoint = find_checkpoint(name)
    assert checkpoint.config == SIZES[name]
    shapes = {name: array.shape for name, array in checkpoint.tensors()}
    assert shapes == dict(random_weights.tensor_shapes(checkpoint.config))


@pytest.mark.weights
def test_model_file_cut_anywhere_or_of_another_kind_is_refused():
    package = PACKAGED["tiny.en"]
    buffer = read_parts("tiny.en", package)
    for length in (0, 3, 20, 1000, len(buffer) // 2):
        with pytest.raises(CheckpointError):
            ctranslate2_reader.read_tensors(buffer[:length])
    with pytest.raises(CheckpointError, match="expected"):
        ctranslate2_reader.read_tensors(b"\x07" + buffer[1:100])


# --- hostile files ----------------------------------------------------------------------------------------------------

SEED = int(os.environ.get("LAB_FUZZ_SEED", "17"))
CODES = {np.dtype(form): code for code, form in ctranslate2_reader.DTYPES.items()}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def tensor(name: str, array: np.ndarray, **fields: int) -> bytes:
    """A tensor as CTranslate2 stores it; with another dtype's code or another size, if they are given."""
    head = text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return (
        head
        + struct.pack("<BI", fields.get("code", CODES[array.dtype]), fields.get("size", array.nbytes))
        + array.tobytes()
    )


def model(*tensors: bytes) -> bytes:
    return struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors)) + b"".join(tensors)


MATRIX = np.arange(12, dtype=np.float16).reshape(6, 2)
FUSED = "encoder/layer_0/self_attention/linear_0/weight"


def read(buffer: bytes) -> dict[str, np.ndarray]:
    return ctranslate2_reader.to_hugging_face(ctranslate2_reader.read_tensors(buffer))


def test_a_small_file_is_read():
    found = read(model(tensor(FUSED, MATRIX), tensor("decoder/layer_norm/gamma", MATRIX[0]), tensor("other", MATRIX)))
    assert found.keys() == {
        "model.decoder.layer_norm.weight",
        *(f"model.encoder.layers.0.self_attn.{part}_proj.weight" for part in "qkv"),
    }
    assert np.array_equal(found["model.encoder.layers.0.self_attn.k_proj.weight"], MATRIX[2:4])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([tensor("a", MATRIX, size=22)], "damaged"),
        ([tensor("a", MATRIX, size=25)], "damaged"),
        ([tensor("a", MATRIX, size=1 << 31)], "damaged"),
        ([tensor("a", MATRIX, code=0)], "damaged"),
        ([tensor("a", MATRIX, code=9)], "damaged"),
        ([text("a") + b"\xff" + b"\xff" * 1020 + b"\4" + b"\xff" * 4], "damaged"),
        ([b"\0\0"], "damaged"),
        ([b"\4\0\xff\xff\xff\0"], "damaged"),
        ([tensor("a", MATRIX), tensor("a", MATRIX)], "two tensors of one name"),
        ([tensor(FUSED, MATRIX[:5])], r"self_attention/linear_0/weight has the shape \(5, 2\)"),
        ([tensor(FUSED, np.array(1, np.float32))], r"has the shape \(\)"),
        ([tensor(FUSED, MATRIX.astype(np.int8))], "int8: the model is quantised"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tensors, message):
    with pytest.raises(CheckpointError, match=message):
        read(model(*tensors))


def test_files_damaged_at_random_are_read_or_refused_and_nothing_else():
    """The seed is LAB_FUZZ_SEED, else 17."""
    rng, refused = random.Random(SEED), 0
    whole = model(tensor(FUSED, MATRIX), tensor("decoder/layer_norm/gamma", MATRIX[0]))
    for _ in range(3000):
        refused += refuses(lambda: read(flip(whole, rng)), CheckpointError)
    assert refused > 1000
