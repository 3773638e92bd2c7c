"""What search and transcription need of a Whisper, whatever it runs on: torch, MindSpore or ONNX Runtime."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from labsupport.checkpoints.config import Config

EncoderOut = Any  # (windows, 1500, d_model), an array of the model's framework, on its device
Cache = Any  # the model's own kind: `optim.kv_cache.DynamicCache`, or the loop graph's


class WhisperModel(Protocol):
    """Encoder and decoder. Log-mel, tokens, rows and logits are NumPy's; what stays inside is the framework's.

    A window of sound begins with one row (a text); beam search repeats rows, and texts that end leave the batch.
    """

    backend: str
    config: Config

    def encode(self, mel: np.ndarray) -> EncoderOut:
        """(windows, mels, 3000) float32 -> (windows, 1500, d_model)"""

    def new_cache(self) -> Cache:
        """An empty cache for one batch of windows."""

    def project_cross_kv(self, encoder_out: Any, cache: Any) -> None:
        """Computes cross-attention's keys and values of (windows, 1500, d_model), once, before the first token."""

    def prefill(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) float32 logits"""

    def decode_step(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits"""

    def reorder_beams(self, rows: np.ndarray, cache: Any) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window; rows: (rows,) int64."""

    def select_rows(self, rows: np.ndarray, cache: Any) -> None:
        """Keeps or repeats rows, (new rows,) int64: texts that end, windows that become beams."""
