"""The fast Whisper on OpenVINO, as `protocol.WhisperModel`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov

from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.engine.decoder import INPUTS
from labsupport.whisper.protocol import Heads, check_heads

HIDDEN = np.float32(-1e9)  # a mask's value for what may not be attended to: its softmax is 0


class StepCache:
    """One batch's variables in a request of the decoder's graph.

    length: tokens in it. frames: of the encoder. rows: for each row of the next step, the row that it goes on from.
    """

    def __init__(self, request: ov.InferRequest):
        self.request = request
        self.length = self.frames = 0
        self.rows = np.zeros(0, np.int32)

    def fill_cross(self, number: int, keys_values: np.ndarray) -> None:
        """One layer's: (2, windows, heads, frames, head_dim) float32"""
        variables = {state.name: state for state in self.request.query_state()}
        for name, array in zip(("cross_k", "cross_v"), keys_values, strict=True):
            variables[f"decoder.layers.{number}.{name}"].state = ov.Tensor(array, shared_memory=True)
        _, windows, _, self.frames, _ = keys_values.shape
        self.rows = np.arange(windows, dtype=np.int32)

    def run(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """(rows, length) int64 tokens, (kept,) int64 places in them -> (rows, kept, vocab) float32 logits"""
        length = tokens.shape[1]
        arrays = {
            "tokens": tokens,
            "positions": np.arange(self.length, self.length + length),
            "rows": self.rows,
            "self_mask": causal_mask(self.length, length),
            "cross_mask": cross_mask(self.frames, self.length + length, length),
            "kept": kept,
        }
        for i, name in enumerate(INPUTS):
            self.request.set_input_tensor(i, ov.Tensor(np.ascontiguousarray(arrays[name])))
        self.request.infer()
        self.length += length
        self.rows = np.arange(len(tokens), dtype=np.int32)
        return self.request.get_output_tensor(0).data.copy()  # the next step writes there


def causal_mask(past: int, length: int) -> np.ndarray:
    """(1, 1, length, past + length) float32: no token attends to those after it"""
    new = np.triu(np.full((length, length), HIDDEN), 1)
    return np.concatenate([np.zeros((length, past), np.float32), new], axis=1)[None, None]


def cross_mask(frames: int, appended: int, length: int) -> np.ndarray:
    """(1, 1, length, frames + appended) float32: hides the zeros that were appended, see `decoder`"""
    mask = np.zeros((1, 1, length, frames + appended), np.float32)
    mask[..., frames:] = HIDDEN
    return mask


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
        """(windows, frames, d_model), into the cache, through one array: all layers' take 37 MB a window of base."""
        windows, frames, _ = encoder_out.shape
        keys_values = np.empty((2, windows, self.config.heads, frames, self.config.head_dim), np.float32)
        for number in range(self.config.decoder_layers):
            request = self.graph(f"cross_kv_{number}").create_infer_request()
            request.set_input_tensor(ov.Tensor(np.ascontiguousarray(encoder_out), shared_memory=True))
            request.set_output_tensor(ov.Tensor(keys_values, shared_memory=True))
            request.infer()
            cache.fill_cross(number, keys_values)

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
        if not cache.frames:
            raise OptimError("The cache holds no window of sound.", hint="Call `model.project_cross_kv` first.")
        if rows != len(cache.rows):
            raise OptimError(f"{rows} texts for a cache of {len(cache.rows)}.", hint="See `select_rows`.")

    def check_length(self, past: int, new: int) -> None:
        if past + new > self.config.text_positions:
            raise OptimError(f"{past} + {new} tokens are more than the decoder's {self.config.text_positions}.")

    def reorder_beams(self, rows: np.ndarray, cache: StepCache) -> None:
        """Row i goes on from the text of row `rows[i]`; the next step reads them so, and nothing is copied."""
        self.select_rows(rows, cache)

    def select_rows(self, rows: np.ndarray, cache: StepCache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.rows = cache.rows[rows]

    def cross_attention(self, tokens: np.ndarray, encoder_out: np.ndarray, heads: Heads) -> np.ndarray:
        """(1, length) int64 tokens, (1, frames, d_model) -> (heads, length, frames) float32 weights of these heads"""
        check_heads(heads, self.config)
        self.check_length(0, tokens.shape[1])
        request = self.graph("alignment").create_infer_request()
        weights = list(request.infer([tokens, encoder_out]).values())  # by layer: (1, heads, length, frames)
        return np.stack([weights[layer][0, head] for layer, head in heads])
