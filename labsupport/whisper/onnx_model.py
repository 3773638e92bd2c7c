"""Whisper on ONNX Runtime: article B's pipeline of separate graphs, as `protocol.WhisperModel`.

No framework is imported, neither here nor while the graphs are built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.graphs.loop_cache import LoopCache
from labsupport.graphs.loop_interface import read_interface
from labsupport.graphs.session import as_value, open_session, run_bound, to_numpy
from labsupport.graphs.store import find_graphs, read_stored_interface
from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import Heads, check_heads

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

OFTEN = ("encoder", "loop")  # graphs that run often or long enough for a second copy of their weights to pay


class Whisper:
    """Encoder and decoder as graphs; see `protocol.WhisperModel`. Arrays are NumPy's.

    Args:
        folder: with the graphs, from `graphs.store.find_graphs`.
        loop: another loop graph in place of the folder's: the article's first form, or after some of its rewrites.
    """

    backend = "onnx"

    def __init__(self, config: Config, folder: Path, loop: onnx.ModelProto | None = None):
        self.config, self.folder, self.loop = config, folder, loop
        self.sessions: dict[str, InferenceSession] = {}
        self.stored = read_stored_interface(folder)
        self.interface = read_interface(loop) if loop else self.stored

    def session(self, name: str) -> InferenceSession:
        """A part of the pipeline, opened when it is first needed."""
        if name not in self.sessions:
            graph = self.loop if name == "loop" and self.loop else self.folder / f"{name}.onnx"
            self.sessions[name] = open_session(graph, prepack=name in OFTEN)
        return self.sessions[name]

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float32 -> (mels, frames), as `features.log_mel` computes it"""
        return self.session("features").run(["mel"], {"samples": samples[None].astype(np.float32)})[0][0]

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """(batch, mels, 3000) float32 -> (batch, 1500, d_model)"""
        return self.session("encoder").run(["encoder_out"], {"mel": mel})[0]

    def language_logits(self, encoder_out: np.ndarray) -> np.ndarray:
        """(batch, 1500, d_model) -> (batch, languages) logits, in the tokenizer's order"""
        return self.session("language").run(["logits"], {"encoder_out": encoder_out})[0]

    def new_cache(self) -> LoopCache:
        return LoopCache(self.interface)

    def project_cross_kv(self, encoder_out: np.ndarray, cache: LoopCache) -> None:
        """(windows, 1500, d_model) for the prefill graph, which projects it with the prompt, as in article B."""
        if cache.encoder_out is not None:
            raise OptimError("This cache holds the text of other windows.", hint="Begin with `model.new_cache()`.")
        cache.encoder_out = encoder_out

    def prefill(self, tokens: np.ndarray, cache: LoopCache, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) logits, see `protocol`"""
        self.check_length(cache.length, tokens.shape[1])
        if cache.encoder_out is None:
            raise OptimError("The cache holds no window of sound.", hint="Call `model.project_cross_kv` first.")
        if cache.length:
            return np.stack([self.decode_step(column, cache) for column in tokens.T], axis=1)[:, -logits_to_keep:]
        feed = {"tokens": tokens, "encoder_out": cache.encoder_out, "logits_to_keep": np.array([logits_to_keep])}
        outputs = run_bound(self.session("prefill"), feed)
        logits = to_numpy(outputs.pop("logits"))
        cache.fill(outputs, self.stored.cross_layout)
        return logits

    def decode_step(self, tokens: np.ndarray, cache: LoopCache) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits: one run of the loop graph"""
        self.check_step(len(tokens), cache)
        logits = cache.run(self.session("loop"), tokens)
        cache.advance()
        return logits

    def check_length(self, past: int, new: int) -> None:
        """Raises OptimError where a text with so many tokens more has more than the decoder has positions."""
        if past + new > self.config.text_positions:
            raise OptimError(f"{past} + {new} tokens are more than the decoder's {self.config.text_positions}.")

    def check_step(self, texts: int, cache: LoopCache) -> None:
        """Raises OptimError where the decoder has no position left, or the cache or the graph holds other rows."""
        if cache.length >= self.config.text_positions:
            raise OptimError(f"The decoder has {self.config.text_positions} positions, and the text fills them.")
        if texts != cache.rows:
            raise OptimError(f"{texts} texts for a cache of {cache.rows}.", hint="See `select_rows`.")
        fixed = next(given.shape[0] for given in self.session("loop").get_inputs() if given.name == "tokens")
        if isinstance(fixed, int) and fixed != texts:
            raise OptimError(f"{texts} texts for a loop graph of {fixed} beams.", hint="Decode with that many beams.")

    def reorder_beams(self, rows: np.ndarray, cache: LoopCache) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window."""
        if np.array_equal(rows, np.arange(len(rows))):
            return
        if self.interface != self.stored:
            cache.reorder_beams(rows)
            return
        values = {"rows": as_value(rows.astype(np.int64)), "length": as_value(np.array([cache.length]))}
        binding = self.session("rearrange").io_binding()
        for name, value in (values | cache.self_kv).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in cache.self_kv.items():
            binding.bind_ortvalue_output(name.removeprefix("past_"), value)
        self.session("rearrange").run_with_iobinding(binding)

    def select_rows(self, rows: np.ndarray, cache: LoopCache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.select_rows(rows)

    def cross_attention(self, tokens: np.ndarray, encoder_out: np.ndarray, heads: Heads) -> np.ndarray:
        """(1, length) int64 tokens, (1, 1500, d_model) -> (heads, length, 1500) float32 weights of these heads"""
        check_heads(heads, self.config)
        self.check_length(0, tokens.shape[1])
        layers = sorted({layer for layer, _ in heads})
        feed = {"tokens": tokens, "encoder_out": encoder_out}
        outputs = self.session("cross_attention").run([f"weights.{layer}" for layer in layers], feed)
        weights = dict(zip(layers, outputs, strict=True))  # each (1, heads, length, 1500)
        return np.stack([weights[layer][0, head] for layer, head in heads])


def load_model(
    checkpoint: Checkpoint, tokenizer: Tokenizer | None = None, loop: onnx.ModelProto | None = None
) -> Whisper:
    """The model of a checkpoint, `loop` as for `Whisper`; its graphs are built on first use.

    The tokenizer says which tokens are languages; without it the model cannot detect one.
    """
    return Whisper(checkpoint.config, find_graphs(checkpoint, *language_tokens(checkpoint, tokenizer)), loop)


def language_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> tuple[int, list[int]]:
    """The start of a transcript and the languages, for the graph that detects one; none for an English-only model."""
    if tokenizer is None or not checkpoint.config.multilingual:
        return 0, []
    return tokenizer.sot, list(tokenizer.languages.values())
