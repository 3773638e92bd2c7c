"""Decode steps without the search around them, so that a cache, a compiler or a precision can be timed alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache

TOKEN = 1  # any will do: time does not depend on it
Call = tuple[str, np.ndarray]  # "step" and its tokens, or "reorder" or "keep" and its rows


class Recorder:
    """A model that writes down what a search asks of it, in `calls`, for `replay`."""

    def __init__(self, model: Any):
        self.model, self.config, self.calls = model, model.config, []
        self.new_cache = DynamicCache

    def step(self, tokens: np.ndarray, audio: Any, cache: DynamicCache) -> np.ndarray:
        self.calls.append(("step", tokens.copy()))
        return self.model.step(tokens, audio, cache)

    def reorder(self, rows: np.ndarray, cache: DynamicCache) -> None:
        self.calls.append(("reorder", rows.copy()))
        self.model.reorder(rows, cache)

    def keep(self, rows: np.ndarray, audio: Any, cache: DynamicCache) -> Any:
        self.calls.append(("keep", rows.copy()))
        return self.model.keep(rows, audio, cache)


def replay(model: Any, cache: DynamicCache, audio: Any, calls: list[Call]) -> np.ndarray:
    """The recorded calls with this model and a new cache; gives the last step's logits, (rows, new, vocab)."""
    for call, given in calls:
        if call == "step":
            logits = model.step(given, audio, cache)
        elif call == "reorder":
            model.reorder(given, cache)
        else:
            audio = model.keep(given, audio, cache)
    return logits


def step_at(
    model: Any, cache: DynamicCache, audio: Any, position: int, beams: int = 1, reorder: np.ndarray | None = None
) -> Callable[[], np.ndarray]:
    """A decode step at `position` that can be done again and again; it gives its logits, (rows, 1, vocab).

    Args:
        cache: a new one.
        audio: (windows, frames, d_model), as `model.encode` gives it.
        position: tokens that each text has already; all are the same token.
        beams: texts for each window.
        reorder: (rows,) which rows the texts go on from after the step, as a beam search asks; None: none moves.
    """
    model.step(np.full((len(audio), position), TOKEN), audio, cache)
    if beams > 1:
        audio = model.keep(np.repeat(np.arange(len(audio)), beams), audio, cache)
    own, token = cache.own, np.full((len(audio), 1), TOKEN)

    def step() -> np.ndarray:
        cache.own, cache.length = own, position
        logits = model.step(token, audio, cache)
        if reorder is not None:
            model.reorder(reorder, cache)
        return logits

    return step


def reading_alone(count: int, like: Any, result: Any = None) -> Callable[[], Any]:
    """One matrix times a vector that reads `count` bytes of float32: no step that must read as many is faster.

    A floor for `measure.compare`: in turns with the steps, so that a neighbour who takes bandwidth takes it from all.

    Args:
        like: a tensor of the device.
        result: what to give back: a step's logits, where `compare` checks that all give the same.
    """
    width = 1024
    matrix, vector = xp.full((count // 4 // width, width), 1.0, like), xp.full((width, 1), 1.0, like)
    return lambda: (matrix @ vector, result)[1]
