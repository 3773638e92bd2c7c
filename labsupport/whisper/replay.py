"""Decode steps without the search around them, so that a cache, a compiler or a precision can be timed alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache
from labsupport.whisper.protocol import EncoderOut, Heads, WhisperModel

TOKEN = 1  # any will do: time does not depend on it
Call = tuple[str, np.ndarray]  # a method of WhisperModel, and its tokens or rows


class Recorder:
    """A model that notes what a search asks of it, in `calls`, for `replay`."""

    def __init__(self, model: WhisperModel):
        self.model, self.config, self.backend = model, model.config, model.backend
        self.calls: list[Call] = []

    def encode(self, mel: np.ndarray) -> EncoderOut:
        return self.model.encode(mel)

    def new_cache(self) -> DynamicCache:
        return DynamicCache()

    def project_cross_kv(self, encoder_out: EncoderOut, cache: DynamicCache) -> None:
        self.model.project_cross_kv(encoder_out, cache)

    def prefill(self, tokens: np.ndarray, cache: DynamicCache, logits_to_keep: int = 0) -> np.ndarray:
        self.calls.append(("prefill", tokens.copy()))
        return self.model.prefill(tokens, cache, logits_to_keep)

    def decode_step(self, tokens: np.ndarray, cache: DynamicCache) -> np.ndarray:
        self.calls.append(("decode_step", tokens.copy()))
        return self.model.decode_step(tokens, cache)

    def reorder_beams(self, rows: np.ndarray, cache: DynamicCache) -> None:
        self.calls.append(("reorder_beams", rows.copy()))
        self.model.reorder_beams(rows, cache)

    def select_rows(self, rows: np.ndarray, cache: DynamicCache) -> None:
        self.calls.append(("select_rows", rows.copy()))
        self.model.select_rows(rows, cache)

    def cross_attention(self, tokens: np.ndarray, encoder_out: EncoderOut, heads: Heads) -> np.ndarray:
        return self.model.cross_attention(tokens, encoder_out, heads)


def replay(model: WhisperModel, cache: DynamicCache, encoder_out: EncoderOut, calls: list[Call]) -> np.ndarray:
    """The recorded calls with this model and a new cache; gives the last step's logits, (rows, vocab)."""
    model.project_cross_kv(encoder_out, cache)
    logits = np.empty(0)
    for method, argument in calls:
        result = getattr(model, method)(argument, cache)
        logits = logits if result is None else result
    return logits


def step_at(
    model: WhisperModel,
    cache: DynamicCache,
    encoder_out: EncoderOut,
    position: int,
    beams: int = 1,
    reorder: np.ndarray | None = None,
) -> Callable[[], np.ndarray]:
    """A decode step at `position` that can be done again and again; it gives its logits, (rows, vocab).

    Args:
        cache: a new one.
        encoder_out: (windows, frames, d_model), as `model.encode` gives it.
        position: tokens that each text has already; all are the same token.
        beams: texts for each window.
        reorder: (rows,) which rows the texts go on from after the step, as a beam search asks; None: none moves.
    """
    windows = len(encoder_out)
    model.project_cross_kv(encoder_out, cache)
    model.prefill(np.full((windows, position), TOKEN), cache)
    if beams > 1:
        model.select_rows(np.repeat(np.arange(windows), beams), cache)
    self_kv, tokens = cache.self_kv, np.full(windows * beams, TOKEN)

    def step() -> np.ndarray:
        cache.self_kv, cache.length = self_kv, position
        logits = model.decode_step(tokens, cache)
        if reorder is not None:
            model.reorder_beams(reorder, cache)
        return logits

    return step


def bandwidth_floor(count: int, like: Any, result: Any = None) -> Callable[[], Any]:
    """One matrix times a vector that reads `count` bytes of float32: no step that must read as many is faster.

    A floor for `timing.compare`: in turns with the steps, so that a neighbour who takes bandwidth takes it from all.

    Args:
        like: a tensor of the device.
        result: what to give back: a step's logits, where `compare` checks that all give the same.
    """
    width = 1024
    matrix, vector = xp.full((count // 4 // width, width), 1.0, like), xp.full((width, 1), 1.0, like)
    return lambda: (matrix @ vector, result)[1]
