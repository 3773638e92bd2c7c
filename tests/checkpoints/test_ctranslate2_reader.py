"""The packages' weights against the CTranslate2 library and transformers; damaged files are refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints import ctranslate2_reader, random_weights
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint, find_part, read_parts

pytestmark = pytest.mark.weights


@pytest.fixture(params=["tiny.en", "base"])
def original(request, tmp_path):
    """The package's own files, as a folder for the CTranslate2 library."""
    parts = [find_part(*part) for part in PACKAGED[request.param].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return request.param, tmp_path


@pytest.mark.slow
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


def test_every_converted_number_is_the_packages_own():
    """The bytes of model.bin, found again by search instead of by our reader."""
    buffer = read_parts("tiny.en", PACKAGED["tiny.en"])
    for name, array in find_checkpoint("tiny.en").tensors():
        half = array.astype(np.float16)
        assert np.array_equal(half, array), name  # nothing was rounded
        assert half.tobytes() in buffer, name


@pytest.mark.parametrize("name", PACKAGED)
def test_converted_names_and_shapes_are_those_of_transformers(name):
    checkpoint = find_checkpoint(name)
    assert checkpoint.config == SIZES[name]
    shapes = {name: array.shape for name, array in checkpoint.tensors()}
    assert shapes == dict(random_weights.tensor_shapes(checkpoint.config))


def test_model_file_cut_anywhere_or_of_another_kind_is_refused():
    package = PACKAGED["tiny.en"]
    buffer = read_parts("tiny.en", package)
    for length in (0, 3, 20, 1000, len(buffer) // 2):
        with pytest.raises(CheckpointError):
            ctranslate2_reader.read_tensors(buffer[:length])
    with pytest.raises(CheckpointError, match="expected"):
        ctranslate2_reader.read_tensors(b"\x07" + buffer[1:100])
