"""whisper.cpp's format: read back by a reader of its own, and run by whisper.cpp where the race's environment is."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.engine.race import ggml


def read_model(path: Path) -> tuple[tuple[int, ...], list[bytes], dict[str, np.ndarray]]:
    """The header's numbers, the vocabulary, and the tensors, from ggml's own description of its blocks."""
    content, position = path.read_bytes(), 0

    def integers(count: int) -> tuple[int, ...]:
        nonlocal position
        position += 4 * count
        return struct.unpack_from(f"<{count}i", content, position - 4 * count)

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        return content[position - count : position]

    header = integers(12)
    rows, columns = integers(2)
    take(4 * rows * columns)
    vocabulary = [take(*integers(1)) for _ in range(*integers(1))]
    tensors = {}
    while position < len(content):
        rank, length, kind = integers(3)
        shape = integers(rank)[::-1]
        name, size = take(length).decode(), int(np.prod(shape))
        if kind == 8:
            blocks = np.frombuffer(take(size // 32 * 34), np.uint8).reshape(-1, 34)
            scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
            tensors[name] = (blocks[:, 2:].view(np.int8) * scales).reshape(shape)
        else:
            dtype = {0: "<f4", 1: "<f2"}[kind]
            tensors[name] = np.frombuffer(take(size * np.dtype(dtype).itemsize), dtype).reshape(shape)
    return header, vocabulary, tensors


@pytest.mark.weights
@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_a_file_holds_the_whole_checkpoint(name, tmp_path):
    checkpoint = find_checkpoint(name)
    config = checkpoint.config
    ggml.write_model(checkpoint, tmp_path / "f16", "f16")
    header, vocabulary, tensors = read_model(tmp_path / "f16")
    assert header == (
        0x67676D6C, config.vocab_size, 1500, config.d_model, config.heads, config.encoder_layers, 448, config.d_model,
        config.heads, config.decoder_layers, 80, 1,
    )  # fmt: skip
    assert len(vocabulary) == (50257 if config.multilingual else 50256)
    assert vocabulary[:2] == [b"!", b'"']
    assert b" the" in vocabulary
    originals = dict(checkpoint.tensors())
    assert len(tensors) == len(originals) - ("proj_out.weight" in originals)
    for original, tensor in originals.items():
        if original != "proj_out.weight":
            found = tensors[ggml.to_openai(original)]
            np.testing.assert_allclose(found.reshape(tensor.shape), tensor, rtol=1e-3, atol=1e-7)


@pytest.mark.weights
def test_eight_bits_take_half_the_room(tmp_path):
    checkpoint = find_checkpoint("tiny.en")
    ggml.write_model(checkpoint, tmp_path / "f16", "f16")
    ggml.write_model(checkpoint, tmp_path / "q8_0", "q8_0")
    assert (tmp_path / "q8_0").stat().st_size < 0.6 * (tmp_path / "f16").stat().st_size
    header, _, tensors = read_model(tmp_path / "q8_0")
    assert header[-1] == 2007
    original = dict(checkpoint.tensors())["model.encoder.layers.0.fc1.weight"]
    found = tensors["encoder.blocks.0.mlp.0.weight"]
    assert 0 < np.abs(found - original).max() <= np.abs(original).max() / 200


@given(arrays(np.float32, (3, 64), elements=st.floats(-100, 100, width=32)))
def test_a_block_is_off_by_half_a_code_at_most(tensor):
    blocks = np.frombuffer(ggml.to_blocks(tensor), np.uint8).reshape(-1, 34)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float64)
    found = (blocks[:, 2:].view(np.int8) * scales).reshape(tensor.shape)
    largest = np.abs(tensor.reshape(-1, 32)).max(axis=1, keepdims=True)
    # half a code, and what rounding the scale to float16 does to 127 codes
    allowed = largest / 254 + largest * 2**-11 + 127 * 2.0**-25
    assert (np.abs(found - tensor).reshape(-1, 32) <= allowed * 1.001).all()


def test_names_are_openais():
    named = {
        "model.encoder.conv1.weight": "encoder.conv1.weight",
        "model.encoder.embed_positions.weight": "encoder.positional_embedding",
        "model.decoder.embed_tokens.weight": "decoder.token_embedding.weight",
        "model.encoder.layer_norm.bias": "encoder.ln_post.bias",
        "model.decoder.layers.3.encoder_attn.k_proj.weight": "decoder.blocks.3.cross_attn.key.weight",
        "model.encoder.layers.11.final_layer_norm.weight": "encoder.blocks.11.mlp_ln.weight",
    }
    assert {name: ggml.to_openai(name) for name in named} == named


def test_the_spelling_of_bytes_is_gpt2s():
    spelled = ggml.byte_spelling()
    assert sorted(spelled.values()) == list(range(256))
    assert (spelled["A"], spelled["Ġ"], spelled["Ċ"]) == (65, 32, 10)


def test_a_hole_in_the_vocabulary_is_found(tmp_path, checkpoint):
    (checkpoint.folder / "vocab.json").write_text(json.dumps({"!": 0}))
    with pytest.raises(KeyError):
        ggml.text_tokens(checkpoint)
