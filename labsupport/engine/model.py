"""The fast Whisper on OpenVINO, as `protocol.WhisperModel`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov

from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.engine.step_cache import StepCache
from labsupport.whisper.protocol import Heads, check_heads


class Whisper:
    """See `protocol.WhisperModel`; the encoder takes windows of any even number of frames up to 3000.

    Args:
        graph: gives a compiled graph by its name in `store.build_graphs`, when it is first needed.
    """

    backend = "openvino"

    def __init__(self, config: Config, graph: Callable[[str], ov.CompiledModel]):
        self.config, self.graph = config, graph

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """(windows, mels, frames) float32 -> (windows, frames / 2, d_model) float32; a window at a time

        A batch of windows takes no less time than one after the other, and more memory.
        """
        request = self.graph("encoder").create_infer_request()
        return np.concatenate([request.infer([window[None]])[0] for window in mel])

    def new_cache(self) -> StepCache:
        return StepCache(self.graph("decoder").create_infer_request())

    def project_cross_kv(self, encoder_out: np.ndarray, cache: StepCache) -> None:
        """(windows, frames, d_model), into the cache, where the decoder's graph reads it; a window at a time"""
        graph = self.graph("cross_kv")
        windows, frames, _ = encoder_out.shape
        stored, request = graph.output(0).element_type, graph.create_infer_request()
        shape = (windows, self.config.heads, frames, self.config.head_dim)
        cross_kv = [np.empty(shape, np.float32 if stored == ov.Type.f32 else np.uint16) for _ in graph.outputs]
        for window in range(windows):
            request.set_input_tensor(ov.Tensor(np.ascontiguousarray(encoder_out[window : window + 1])))
            for i, array in enumerate(cross_kv):
                request.set_output_tensor(i, ov.Tensor(array[window], ov.Shape((1, *shape[1:])), stored))
            request.infer()
        cache.fill(cross_kv)

    def prefill(self, tokens: np.ndarray, cache: StepCache, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) logits, see `protocol`"""
        self.check(tokens, cache)
        return cache.run(tokens, np.arange(tokens.shape[1])[-logits_to_keep:])

    def decode_step(self, tokens: np.ndarray, cache: StepCache) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits"""
        self.check(tokens[:, None], cache)
        return cache.run(tokens[:, None], np.zeros(1, np.int64))[:, 0]

    def check(self, tokens: np.ndarray, cache: StepCache) -> None:
        """Raises OptimError where a text would be longer than the decoder's positions, or rows do not fit."""
        rows, length = tokens.shape
        self.check_length(cache.length, length)
        if not cache.cross_kv:
            raise OptimError("The cache holds no window of sound.", hint="Call `model.project_cross_kv` first.")
        if rows != cache.rows:
            raise OptimError(f"{rows} texts for a cache of {cache.rows}.", hint="See `select_rows`.")

    def check_length(self, past: int, new: int) -> None:
        if past + new > self.config.text_positions:
            raise OptimError(f"{past} + {new} tokens are more than the decoder's {self.config.text_positions}.")

    def reorder_beams(self, rows: np.ndarray, cache: StepCache) -> None:
        """Row i goes on from the text of row `rows[i]`; the next step reads them so, and nothing is copied."""
        cache.select_rows(rows)

    def select_rows(self, rows: np.ndarray, cache: StepCache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.select_rows(rows)

    def cross_attention(self, tokens: np.ndarray, encoder_out: np.ndarray, heads: Heads) -> np.ndarray:
        """(1, length) int64 tokens, (1, frames, d_model) -> (heads, length, frames) float32 weights of these heads"""
        check_heads(heads, self.config)
        self.check_length(0, tokens.shape[1])
        request = self.graph("alignment").create_infer_request()
        weights = list(request.infer([tokens, encoder_out]).values())  # by layer: (1, heads, length, frames)
        return np.stack([weights[layer][0, head] for layer, head in heads])
