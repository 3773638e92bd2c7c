"""A model that stops between two steps when nobody wants its result any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labsupport.whisper.protocol import WhisperModel


class WatchedModel:
    """`model` as it is, but that `check` is called before each run of its encoder and decoder, and may raise.

    A window may take 224 steps at each of six temperatures: a client that leaves frees the model within one.
    """

    def __init__(self, model: WhisperModel, check: Callable[[], None]):
        self.model, self.check = model, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, mel: np.ndarray) -> Any:
        """(windows, mels, 3000) float32 -> (windows, 1500, d_model)"""
        self.check()
        return self.model.encode(mel)

    def prefill(self, tokens: np.ndarray, cache: Any, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 -> (rows, length, vocab) float32 logits"""
        self.check()
        return self.model.prefill(tokens, cache, logits_to_keep)

    def decode_step(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """(rows,) int64 -> (rows, vocab) float32 logits"""
        self.check()
        return self.model.decode_step(tokens, cache)
