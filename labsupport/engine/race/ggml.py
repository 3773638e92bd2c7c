"""Whisper's weights in the format of whisper.cpp, plain or with eight-bit blocks.

A file holds the shape, the mel filters, the vocabulary's bytes, then each tensor: its rank, length of its name, type,
lengths (the last axis first), name, data. Norms, biases and positions are float32, and convolutions float16, always.

Source: whisper.cpp, models/convert-h5-to-ggml.py, and ggml's block_q8_0.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from labsupport.base.records import read_json
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.speech.features import mel_filters

MAGIC = 0x67676D6C  # "ggml"
FLOAT32, FLOAT16, Q8_0 = 0, 1, 8  # types of a tensor
FILE_TYPES = {"f16": 1, "q8_0": 2007}  # 7 is "mostly q8_0", 2 the version of the blocks, times 1000
BLOCK = 32  # numbers with one scale
TEXT_TOKENS = {True: 50257, False: 50256}  # multilingual or not: the special ones come after these, by number alone

# Hugging Face's part of a layer's name -> OpenAI's; what is not here has one name.
LAYER_PARTS = {
    "self_attn.q_proj": "attn.query", "self_attn.k_proj": "attn.key", "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out", "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query", "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value", "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln", "fc1": "mlp.0", "fc2": "mlp.2", "final_layer_norm": "mlp_ln",
}  # fmt: skip
OTHER_PARTS = {
    "encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens": "decoder.token_embedding",
}  # fmt: skip


def to_openai(name: str) -> str:
    """Hugging Face's name of a tensor -> OpenAI's: model.encoder.layers.0.fc1.bias -> encoder.blocks.0.mlp.0.bias"""
    name = name.removeprefix("model.")
    if layer := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        side, number, part, kind = layer.groups()
        return f"{side}.blocks.{number}.{LAYER_PARTS[part]}.{kind}"
    whole, _, kind = name.rpartition(".")
    return OTHER_PARTS.get(name) or f"{OTHER_PARTS.get(whole, whole)}.{kind}"


def write_model(checkpoint: Checkpoint, path: Path, form: str) -> None:
    """Writes one file of a form of `FILE_TYPES`."""
    with path.open("wb") as file:
        write_header(file, checkpoint.config, FILE_TYPES[form])
        write_vocabulary(file, checkpoint)
        for name, tensor in checkpoint.tensors():
            if name != "proj_out.weight":  # the token embedding
                write_tensor(file, to_openai(name), tensor, form)


def write_header(file: BinaryIO, config: Config, file_type: int) -> None:
    audio = (config.audio_positions, config.d_model, config.heads, config.encoder_layers)
    text = (config.text_positions, config.d_model, config.heads, config.decoder_layers)
    write_integers(file, (MAGIC, config.vocab_size, *audio, *text, config.mels, file_type))
    filters = mel_filters(config.mels).astype(np.float32)  # (mels, 201)
    write_integers(file, filters.shape)
    file.write(filters.tobytes())


def write_integers(file: BinaryIO, numbers: Iterable[int]) -> None:
    numbers = tuple(numbers)
    file.write(struct.pack(f"<{len(numbers)}i", *numbers))


def write_vocabulary(file: BinaryIO, checkpoint: Checkpoint) -> None:
    """The bytes of each token of text, in order."""
    texts = text_tokens(checkpoint)
    write_integers(file, (len(texts),))
    for text in texts:
        write_integers(file, (len(text),))
        file.write(text)


def text_tokens(checkpoint: Checkpoint) -> list[bytes]:
    """The bytes of each token of text by its number, without the special ones."""
    ids = read_json(checkpoint.folder / "vocab.json")
    count, spelled = TEXT_TOKENS[checkpoint.config.multilingual], byte_spelling()
    numbered = {number: token for token, number in ids.items() if number < count}
    return [bytes(spelled[character] for character in numbered[number]) for number in range(count)]


def byte_spelling() -> dict[str, int]:
    """GPT-2's character for a byte -> the byte: those that can be printed stand for themselves, others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def write_tensor(file: BinaryIO, name: str, tensor: np.ndarray, form: str) -> None:
    if name.endswith(("conv1.bias", "conv2.bias")):
        tensor = tensor[:, None]
    is_plain = tensor.ndim < 2 or name.endswith(("positional_embedding", "conv1.bias", "conv2.bias"))
    kind = FLOAT32 if is_plain else Q8_0 if form == "q8_0" and tensor.ndim == 2 else FLOAT16
    label = name.encode()
    write_integers(file, (tensor.ndim, len(label), kind, *tensor.shape[::-1]))
    file.write(label)
    file.write({FLOAT32: to_float32, FLOAT16: to_float16, Q8_0: to_blocks}[kind](tensor))


def to_float32(tensor: np.ndarray) -> bytes:
    return tensor.astype("<f4").tobytes()


def to_float16(tensor: np.ndarray) -> bytes:
    return tensor.astype("<f2").tobytes()


def to_blocks(tensor: np.ndarray) -> bytes:
    """(rows, columns) -> for each 32 numbers of a row a scale, float16, and 32 codes of eight bits."""
    values = tensor.astype(np.float32).reshape(-1, BLOCK)
    scales = np.abs(values).max(axis=1, keepdims=True) / 127
    codes = np.round(np.divide(values, scales, out=np.zeros_like(values), where=scales > 0))
    blocks = np.zeros(len(values), [("scale", "<f2"), ("codes", "i1", BLOCK)])
    blocks["scale"], blocks["codes"] = scales[:, 0], codes
    return blocks.tobytes()
