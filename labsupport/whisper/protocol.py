"""What search and transcription need of a Whisper, whatever it runs on: torch, MindSpore or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config

EncoderOut = Any  # (windows, 1500, d_model), an array of the model's framework, on its device
Heads = Sequence[tuple[int, int]]  # of the decoder's cross-attention: (layer, head) pairs
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

    def prefill(self, tokens: np.ndarray, cache: Any, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) float32 logits

        logits_to_keep: as in transformers, of so many last tokens alone, (rows, logits_to_keep, vocab); 0: of all.
        """

    def decode_step(self, tokens: np.ndarray, cache: Any) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits"""

    def reorder_beams(self, rows: np.ndarray, cache: Any) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window; rows: (rows,) int64."""

    def select_rows(self, rows: np.ndarray, cache: Any) -> None:
        """Keeps or repeats rows, (new rows,) int64: texts that end, windows that become beams."""

    def cross_attention(self, tokens: np.ndarray, encoder_out: Any, heads: Heads) -> np.ndarray:
        """How much each token of a whole text attends to each encoder frame of one window, from 0 to 1.

        Args:
            tokens: (1, length) int64, from the start of the transcript on.
            encoder_out: (1, 1500, d_model).
            heads: at least one; in this order the weights come.

        Returns:
            (heads, length, 1500) float32, the softmax weights; each sums to 1 over the frames.

        Raises:
            OptimError: the model has no such head, or fewer positions than the text has tokens.
        """


def check_heads(heads: Heads, config: Config) -> None:
    """Raises OptimError unless these are heads of the decoder, one at least."""
    unknown = [pair for pair in heads if not (0 <= pair[0] < config.decoder_layers and 0 <= pair[1] < config.heads)]
    if unknown or not heads:
        what = f"The decoder has no cross-attention head {unknown[0]}." if unknown else "No head is given."
        hint = f"It has {config.decoder_layers} layers of {config.heads} heads; a head is a pair (layer, head)."
        raise OptimError(what, hint=hint)
