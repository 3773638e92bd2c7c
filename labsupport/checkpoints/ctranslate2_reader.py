"""Reads Whisper weights in CTranslate2's format, and gives them the names that Hugging Face uses."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

from labsupport.base.errors import CheckpointError

VERSION, SPEC, REVISION = 6, "WhisperSpec", 3
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

# CTranslate2's name of a layer's part -> Hugging Face's, several where their rows are fused.
LINEARS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
    "layer_norm": "layer_norm",
}
PLAIN = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
}


class Reader:
    """A buffer and the position of the next value in it."""

    def __init__(self, buffer: bytes):
        self.buffer, self.position = buffer, 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self.buffer, self.position)
        self.position += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("H")  # the closing zero is counted
        self.position += length
        return bytes(self.buffer[self.position - length : self.position - 1]).decode()

    def tensor(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype(DTYPES[self.number("B")])
        size = self.number("I")
        self.position += size
        return np.frombuffer(self.buffer, dtype, size // dtype.itemsize, self.position - size).reshape(shape)


def read_tensors(buffer: bytes) -> dict[str, np.ndarray]:
    """A whole model.bin -> its tensors by CTranslate2's names, views into the buffer; CheckpointError if damaged."""
    reader = Reader(buffer)
    try:
        found = (reader.number("I"), reader.text(), reader.number("I"))
        if found != (VERSION, SPEC, REVISION):
            raise CheckpointError(f"The model file says {found}; {(VERSION, SPEC, REVISION)} is expected.")
        return {reader.text(): reader.tensor() for _ in range(reader.number("I"))}
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError("The model file is damaged or cut short.", where=f"byte {reader.position}") from error


def to_hugging_face(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CTranslate2's tensors -> float32 under the names of WhisperForConditionalGeneration.

    Fused rows are split; the bias of k, which is padding, is dropped; the output projection is the token embedding.
    """
    return {
        f"model.{side}.{new}": np.ascontiguousarray(array, np.float32)
        for name, tensor in tensors.items()
        if (side := name.partition("/")[0]) in ("encoder", "decoder")
        for new, array in rename(name.partition("/")[2], tensor)
    }


def rename(name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor's new names and parts; nothing for CTranslate2's own settings."""
    layer = re.match(r"layer_(\d+)/(.*)", name)
    prefix, name = (f"layers.{layer[1]}.", layer[2]) if layer else ("", name)
    part, _, kind = name.rpartition("/")
    if name in PLAIN:
        yield PLAIN[name], tensor
    elif part in NORMS:
        yield f"{prefix}{NORMS[part]}.{'weight' if kind == 'gamma' else 'bias'}", tensor
    elif part in LINEARS:
        for new, rows in zip(LINEARS[part], np.split(tensor, len(LINEARS[part])), strict=True):
            if not (kind == "bias" and new.endswith("k_proj")):
                yield f"{prefix}{new}.{kind}", rows
