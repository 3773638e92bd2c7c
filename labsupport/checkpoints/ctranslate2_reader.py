"""Reads Whisper weights in CTranslate2's format, and gives them the names that Hugging Face uses."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

import numpy as np

from labsupport.base.errors import CheckpointError, printable

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
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{size} bytes for {dtype} {shape}")
        self.position += size
        return np.frombuffer(self.buffer, dtype, size // dtype.itemsize, self.position - size).reshape(shape)


def read_tensors(buffer: bytes) -> dict[str, np.ndarray]:
    """A whole model.bin -> its tensors by CTranslate2's names, views into the buffer; CheckpointError if damaged."""
    reader = Reader(buffer)
    try:
        found = (reader.number("I"), reader.text(), reader.number("I"))
        if found != (VERSION, SPEC, REVISION):
            raise CheckpointError(f"The model file says {found}; {(VERSION, SPEC, REVISION)} is expected.")
        pairs = [(reader.text(), reader.tensor()) for _ in range(reader.number("I"))]
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError("The model file is damaged or cut short.", where=f"byte {reader.position}") from error
    tensors = dict(pairs)
    if len(tensors) < len(pairs):
        raise CheckpointError("The model file has two tensors of one name.")
    return tensors


def to_hugging_face(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CTranslate2's tensors -> float32 under the names of WhisperForConditionalGeneration.

    Fused rows are split; the bias of k, which is padding, is dropped; the output projection is the token embedding.
    CheckpointError: a tensor is quantised, or has rows that cannot be split.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        side, _, rest = name.partition("/")
        if side not in ("encoder", "decoder"):
            continue
        try:
            parts = list(rename(rest, tensor))
        except (ValueError, IndexError) as error:
            what = f"The tensor {printable(name)} has the shape {tensor.shape}, which cannot be split."
            raise CheckpointError(what) from error
        if parts and tensor.dtype.kind != "f":
            what = f"The tensor {printable(name)} is {tensor.dtype}: the model is quantised, which is not read."
            raise CheckpointError(what, hint="Convert it with the quantization float16 or float32.")
        renamed |= {f"model.{side}.{new}": np.ascontiguousarray(array, np.float32) for new, array in parts}
    return renamed


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
