"""Whisper's parts as ONNX graphs, written by hand from a checkpoint: article B's pipeline, and its first decode step.

Every builder takes a checkpoint and gives an `onnx.ModelProto`; no framework is needed. Keys and values are
(batch, length, heads, head_dim) float32.
"""

from __future__ import annotations

import numpy as np
import onnx

from ..checkpoints import Checkpoint
from .onnx_parts import Graph, attend, feed_forward, keys_values, layer_norm, query, score_vocabulary


def decoder_step(
    checkpoint: Checkpoint,
    beams: int = 5,
    layers: int | None = None,
    capacity: int | None = None,
    logits: bool = True,
) -> onnx.ModelProto:
    """One decode step of the beams of one window, in article B's first form.

    Inputs: tokens int64 (beams, 1); position int64 (1,), how many tokens came before; for each layer i cross_k.i and
    cross_v.i (1, 1500, heads, head_dim), past_k.i and past_v.i (beams, past, heads, head_dim). Outputs: logits
    float32 (beams, 1, vocab); k.i and v.i (beams, past + 1, heads, head_dim). The one window's cross-attention is
    copied for every beam (Tile), the cache grows (Concat), and every matrix product has its Transposes.

    Args:
        layers: only the first ones; all by default.
        capacity: fixes the length of the past, for compilers that want every shape.
        logits: False gives `hidden` (beams, 1, d_model) instead, what the projection to the vocabulary would read.
    """
    config = checkpoint.config
    g = Graph("decoder_step", dict(checkpoint.tensors()))
    x = embed(g, g.input("tokens", np.int64, (beams, 1)), g.input("position", np.int64, (1,)))
    for number in range(config.decoder_layers if layers is None else layers):
        x = step_layer(g, x, number, config, beams, capacity)
    x = layer_norm(g, x, "decoder.layer_norm")
    if logits:
        scores = score_vocabulary(g, x, g.weight("decoder.embed_tokens.weight"), config)
        scores = g.op("Unsqueeze", scores, g.constant("second", np.array([1], np.int64)), name="logits/Unsqueeze")
        g.output(scores, "logits", np.float32, (beams, 1, config.vocab_size))
    else:
        g.output(x, "hidden", np.float32, (beams, 1, config.d_model))
    return g.finish()


def embed(g: Graph, tokens: str, positions: str) -> str:
    """(batch, length) tokens at (length,) positions -> (batch, length, d_model)"""
    words = g.op("Gather", g.weight("decoder.embed_tokens.weight"), tokens, name="decoder.embed_tokens/Gather")
    places = g.op(
        "Gather", g.weight("decoder.embed_positions.weight"), positions, name="decoder.embed_positions/Gather"
    )
    return g.op("Add", words, places, name="decoder.embed/Add")


def step_layer(g: Graph, x: str, number: int, config, beams: int, capacity: int | None) -> str:
    """A decoder layer for one new token: attention to the past and itself, to the sound, and the feed-forward net."""
    layer, rest = f"decoder.layers.{number}", (config.heads, config.head_dim)
    own, cross = f"{layer}.self_attn", f"{layer}.encoder_attn"
    h = layer_norm(g, x, f"{layer}.self_attn_layer_norm")
    kept = []
    for letter, new in zip("kv", keys_values(g, h, config, own), strict=True):
        past = g.input(f"past_{letter}.{number}", np.float32, (beams, capacity or "past", *rest))
        grown = g.op("Concat", past, new, axis=1, name=f"{own}/{letter}_Concat")
        length = capacity + 1 if capacity else "past + 1"
        kept.append(g.output(grown, f"{letter}.{number}", np.float32, (beams, length, *rest)))
    x = g.op("Add", x, attend(g, query(g, h, config, own), *kept, config, own), name=f"{own}/residual_Add")
    h = layer_norm(g, x, f"{layer}.encoder_attn_layer_norm")
    repeats, sound = g.constant("beams_each", np.array([beams, 1, 1, 1], np.int64)), []
    for letter in "kv":
        one = g.input(f"cross_{letter}.{number}", np.float32, (1, config.audio_positions, *rest))
        sound.append(g.op("Tile", one, repeats, name=f"{cross}/{letter}_Tile"))
    x = g.op("Add", x, attend(g, query(g, h, config, cross), *sound, config, cross), name=f"{cross}/residual_Add")
    return feed_forward(g, x, layer)
