"""Names and shapes of a Whisper's tensors, and seeded random values for them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from labsupport.checkpoints.config import Config


def random_tensors(config: Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of WhisperForConditionalGeneration, drawn by seed and name, independent of the order."""
    for name, size in tensor_shapes(config):
        if name.endswith("norm.weight"):
            yield name, np.ones(size, np.float32)
        elif name.endswith(".bias"):
            yield name, np.zeros(size, np.float32)
        elif name == "model.encoder.embed_positions.weight":
            yield name, sinusoids(*size)
        else:
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            yield name, 0.02 * generator.standard_normal(size, np.float32)


def sinusoids(length: int, channels: int) -> np.ndarray:
    """The encoder's fixed positions: (length, channels) float32 (Radford et al. 2022, section 2.2)."""
    rates = np.exp(-np.log(10_000) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def tensor_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a Hugging Face checkpoint; the output layer is the token embedding."""
    d, ffn = config.d_model, config.ffn_dim
    yield from with_bias("model.encoder.conv1", d, config.mels, 3)
    yield from with_bias("model.encoder.conv2", d, d, 3)
    yield "model.encoder.embed_positions.weight", (config.audio_positions, d)
    yield "model.decoder.embed_tokens.weight", (config.vocab_size, d)
    yield "model.decoder.embed_positions.weight", (config.text_positions, d)
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        attentions = ["self_attn"] if side == "encoder" else ["self_attn", "encoder_attn"]
        for prefix in (f"model.{side}.layers.{i}" for i in range(layers)):
            for attention in attentions:
                yield f"{prefix}.{attention}.k_proj.weight", (d, d)
                for part in ("q", "v", "out"):
                    yield from with_bias(f"{prefix}.{attention}.{part}_proj", d, d)
            yield from with_bias(f"{prefix}.fc1", ffn, d)
            yield from with_bias(f"{prefix}.fc2", d, ffn)
            for norm in (*attentions, "final"):
                yield from with_bias(f"{prefix}.{norm}_layer_norm", d)
        yield from with_bias(f"model.{side}.layer_norm", d)


def with_bias(layer: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{layer}.weight", shape
    yield f"{layer}.bias", shape[:1]
