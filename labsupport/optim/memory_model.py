"""Where a Whisper's memory goes in inference: bytes of the tensors of each term, from the shape of the model alone.

What an allocator adds by rounding, and a library by its buffers, is not predicted but measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from labsupport.base.paths import DATA, read_toml
from labsupport.checkpoints.config import Config

SCORE_COPIES = {"sdpa": 0, "eager": 2}  # score matrices alive at one time: the scores and their softmax
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters of "encoder" and "decoder"; the output layer is the token embedding, which counts once.

    Source: Radford et al. 2022, section 2.2; keys have no bias.
    """
    d, ffn = config.d_model, config.ffn_dim
    attention, feed_forward, norm = 4 * d * d + 3 * d, 2 * d * ffn + ffn + d, 2 * d
    encoder = 3 * d * (config.mels + d) + 2 * d + config.audio_positions * d  # two convolutions, positions
    encoder += config.encoder_layers * (attention + feed_forward + 2 * norm) + norm
    decoder = (config.vocab_size + config.text_positions) * d  # token embedding, positions
    decoder += config.decoder_layers * (2 * attention + feed_forward + 3 * norm) + norm
    return {"encoder": encoder, "decoder": decoder}


def to_bytes(numbers: int, dtype: str = "float32") -> int:
    """Bytes of so many numbers; two four-bit numbers share a byte."""
    return math.ceil(numbers * BITS[dtype] / 8)


def weight_bytes(config: Config, dtype: str = "float32") -> int:
    """All parameters. The scales of integers are not counted (notebook 09)."""
    return to_bytes(sum(count_parameters(config).values()), dtype)


def activation_bytes(config: Config, windows: int = 1, dtype: str = "float32") -> int:
    """The encoder's peak without attention scores, in a layer's feed-forward net: the inner tensor (1500, 4 d) and its
    GELU, and three tensors (1500, d): the layer's input, the residual, and its norm. The convolutions take less.
    """
    return to_bytes(windows * config.audio_positions * (3 * config.d_model + 2 * config.ffn_dim), dtype)


def attention_bytes(config: Config, windows: int = 1, dtype: str = "float32") -> int:
    """An encoder layer's attention without its scores, six tensors (1500, d): input, norm, q, k, v and the output."""
    return to_bytes(6 * windows * config.audio_positions * config.d_model, dtype)


def score_bytes(config: Config, rows: int, queries: int, keys: int, dtype: str = "float32") -> int:
    """One layer's attention scores, (rows, heads, queries, keys), freed before the next layer's are made."""
    return to_bytes(rows * config.heads * queries * keys, dtype)


def self_cache_bytes(config: Config, rows: int = 1, tokens: int = 448, dtype: str = "float32") -> int:
    """Self-attention's keys and values in every decoder layer; a row is a text, such as a beam's.

    A dynamic cache holds the old and the new tensors during a step, twice this; a static one takes it once, for all
    448 places.
    """
    return to_bytes(2 * config.decoder_layers * rows * tokens * config.d_model, dtype)


def cross_cache_bytes(config: Config, windows: int = 1, dtype: str = "float32") -> int:
    """Cross-attention's keys and values in every decoder layer; a window's beams share them."""
    return to_bytes(2 * config.decoder_layers * windows * config.audio_positions * config.d_model, dtype)


def logit_bytes(config: Config, rows: int = 1, tokens: int = 1) -> int:
    """(rows, tokens, vocab) logits, float32 in any precision."""
    return to_bytes(rows * tokens * config.vocab_size)


@dataclass(frozen=True)
class Setting:
    """What a prediction is made for.

    Args:
        weights, activations: dtypes of the weights and of all else (integers are for weights alone).
        windows, beams, tokens: windows of 30 s at once; texts for each window; tokens of each text.
        attention: "eager", or "sdpa" for every mode that keeps no matrix of scores.
    """

    weights: str = "float32"
    activations: str = "float32"
    windows: int = 1
    beams: int = 1
    tokens: int = 448
    attention: str = "sdpa"


def predict_encoding(config: Config, setting: Setting) -> dict[str, int]:
    """Term -> bytes at the encoder's peak: in a layer's feed-forward net, or in its attention with the scores."""
    windows, dtype, frames = setting.windows, setting.activations, config.audio_positions
    scores = SCORE_COPIES[setting.attention] * score_bytes(config, windows, frames, frames, dtype)
    attention, feed_forward = attention_bytes(config, windows, dtype), activation_bytes(config, windows, dtype)
    weights = {"weights": weight_bytes(config, setting.weights)}
    if attention + scores > feed_forward:
        return weights | {"activations": attention, "attention scores": scores}
    return weights | {"activations": feed_forward}


def predict_decoding(config: Config, setting: Setting) -> dict[str, int]:
    """Term -> bytes at the last decode step with a dynamic cache; encoder_out stays, a row for each window."""
    windows, rows, dtype = setting.windows, setting.windows * setting.beams, setting.activations
    encoder_out = to_bytes(windows * config.audio_positions * config.d_model, dtype)
    return {
        "weights": weight_bytes(config, setting.weights),
        "activations": encoder_out + logit_bytes(config, rows),
        "self-attention cache": 2 * self_cache_bytes(config, rows, setting.tokens, dtype),
        "cross-attention cache": cross_cache_bytes(config, windows, dtype),
    }


def predict(config: Config, setting: Setting | None = None) -> dict[str, int]:
    """Term -> bytes at the higher of the two peaks: what a transcription needs at the most."""
    peaks = [predict(config, setting or Setting()) for predict in (predict_encoding, predict_decoding)]
    return max(peaks, key=lambda terms: sum(terms.values()))


def step_read_bytes(config: Config, setting: Setting) -> int:
    """The least that the last decode step reads: the decoder's weights, and both caches once."""
    rows, dtype = setting.windows * setting.beams, setting.activations
    caches = self_cache_bytes(config, rows, setting.tokens, dtype) + cross_cache_bytes(config, setting.windows, dtype)
    return to_bytes(count_parameters(config)["decoder"], setting.weights) + caches


def share(terms: Mapping[str, int], devices: int, how: str) -> dict[str, int]:
    """What one of several devices holds.

    Args:
        how: "data": all weights and a part of the windows. "tensor": a part of every weight matrix and of the heads,
            with their scores and caches; the activations between the matrices are whole on every device.
    """
    whole = {"data": "weights", "tensor": "activations"}[how]
    return {term: count if term == whole else math.ceil(count / devices) for term, count in terms.items()}


# --- cards ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """An accelerator as its maker describes it. memory: GB; bandwidth: GB/s, None where the maker gives none."""

    name: str
    memory: float
    source: str
    bandwidth: float | None = None


def read_cards() -> list[Card]:
    """The cards of `data/accelerators.toml`, smallest memory first."""
    entries = read_toml(DATA / "accelerators.toml")["card"]
    return sorted((Card(**entry) for entry in entries), key=lambda card: (card.memory, card.name))
