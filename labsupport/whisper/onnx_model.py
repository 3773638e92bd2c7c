"""Whisper on ONNX Runtime: article B's pipeline of separate graphs, as `protocol.WhisperModel`.

No framework is imported, neither here nor while the graphs are built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.graphs.loop_interface import GROWS, SHIFTS, LoopInterface, read_interface
from labsupport.graphs.session import as_value, open_session, run_bound
from labsupport.graphs.store import find_graphs
from labsupport.speech.text import Tokenizer

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession, IOBinding, OrtValue

PLAIN = (0, 1, 2, 3)  # batch, length, heads, head_dim
OFTEN = ("encoder", "loop")  # graphs that run often or long enough for a second copy of their weights to pay


# --- the cache --------------------------------------------------------------------------------------------------------


class Cache:
    """Keys and values between two steps, in the form that the loop graph wants; empty until a prompt is read.

    length: tokens that it holds; past: past_k.i and past_v.i, a row for each text; cross: cross_k.i and cross_v.i, a
    row for each text, or one if all texts are of one window.
    """

    def __init__(self, form: LoopInterface):
        self.form, self.length = form, 0
        self.past: dict[str, OrtValue] = {}
        self.spare: dict[str, OrtValue] = {}
        self.cross: dict[str, OrtValue] = {}
        self.binding: IOBinding | None = None
        self.encoder_out: np.ndarray | None = None

    @property
    def texts(self) -> int:
        return next(iter(self.past.values())).shape()[0]

    @property
    def windows(self) -> int:
        return next(iter(self.cross.values())).shape()[0]

    def fill(self, prompt: Mapping[str, OrtValue], length: int, cross_layout: tuple[int, ...]) -> None:
        """Takes over what the prefill graph gives; `cross_layout` is the order in which it gives cross-attention's."""
        moves = tuple(cross_layout.index(axis) for axis in self.form.cross_layout)
        for name, value in prompt.items():
            if name.startswith("cross"):
                self.cross[name] = value if moves == PLAIN else as_value(value.numpy().transpose(moves))
            elif name != "logits":
                self.past[f"past_{name}"] = as_value(self.store(value.numpy()))
        self.length = length

    def store(self, rows: np.ndarray) -> np.ndarray:
        """(texts, length, heads, head_dim) -> as the loop graph wants its past."""
        if self.form.cache == GROWS:
            return rows.transpose(self.form.layout)
        texts, length, *rest = rows.shape
        shape = (texts, self.form.capacity, *rest)
        whole = np.zeros([shape[axis] for axis in self.form.layout], np.float32)
        start = self.form.capacity - length if self.form.cache == SHIFTS else 0
        whole.transpose(np.argsort(self.form.layout))[:, start : start + length] = rows
        return whole

    def reorder_beams(self, rows: np.ndarray) -> None:
        """Each text goes on from the past of the given one."""
        self.past = {name: as_value(value.numpy()[rows]) for name, value in self.past.items()}
        self.spare, self.binding = {}, None

    def select_rows(self, rows: np.ndarray) -> None:
        """Keeps or repeats texts; texts of one window share its cross-attention."""
        self.reorder_beams(rows)
        if self.windows > 1:
            ours = rows[:1] if len(set(rows.tolist())) == 1 else rows
            self.cross = {name: as_value(value.numpy()[ours]) for name, value in self.cross.items()}

    def bind(self, session: InferenceSession, vocabulary: int) -> IOBinding:
        """The loop graph tied to this cache; tied anew only when the buffers have changed."""
        if self.binding is None:
            self.binding = session.io_binding()
            self.arrays = {
                "tokens": np.zeros((self.texts, 1), np.int64),
                "position": np.zeros(1, np.int64),
                "places": self.count_places(),
                "logits": np.empty((self.texts, 1, vocabulary), np.float32),
            }
            self.values = {name: as_value(array) for name, array in self.arrays.items()}
            taken = {given.name for given in session.get_inputs()}
            for name, value in (self.values | self.cross | self.past).items():
                if name in taken:
                    self.binding.bind_ortvalue_input(name, value)
            self.binding.bind_ortvalue_output("logits", self.values["logits"])
            self.bind_present()
        return self.binding

    def bind_present(self) -> None:
        """Says where the loop graph puts k.i and v.i: over the past, beside it, or where ONNX Runtime likes."""
        if self.form.cache == SHIFTS and not self.spare:
            self.spare = {name: as_value(np.empty(value.shape(), np.float32)) for name, value in self.past.items()}
        for name, value in self.past.items():
            if self.form.cache == GROWS:
                self.binding.bind_output(name.removeprefix("past_"))
            else:
                self.binding.bind_ortvalue_output(name.removeprefix("past_"), self.spare.get(name, value))

    def count_places(self) -> np.ndarray:
        """(texts, heads, 1, 3): the index of text, head and row of where the next step writes."""
        _, heads, *_ = next(iter(self.past.values())).shape()
        return np.stack(np.meshgrid(np.arange(self.texts), np.arange(heads), [0], indexing="ij"), -1)

    def advance(self) -> None:
        """One more token, after a run of the loop graph."""
        self.length += 1
        if self.form.cache == GROWS:
            present = self.binding.get_outputs()[1:]
            self.past = dict(zip(self.past, present, strict=True))
            self.binding = None
        elif self.form.cache == SHIFTS:
            self.past, self.spare = self.spare, self.past
            self.binding = None


# --- the model --------------------------------------------------------------------------------------------------------


class Whisper:
    """Encoder and decoder as graphs; see `protocol.WhisperModel`. Arrays are NumPy's.

    Args:
        folder: with the graphs, from `graphs.store.find_graphs`.
        loop: another loop graph in place of the folder's: the article's first form, or after some of its rewrites.
        threads: see `open_session`.
    """

    backend = "onnx"

    def __init__(self, config: Config, folder: Path, loop: onnx.ModelProto | None = None, threads: int | None = None):
        self.config, self.folder, self.threads, self.own_loop = config, folder, threads, loop
        self.sessions: dict[str, InferenceSession] = {}
        form = json.loads((folder / "form.json").read_text(encoding="utf-8"))
        self.stored = LoopInterface(**{name: freeze(value) for name, value in form.items()})
        self.form = read_interface(loop) if loop else self.stored

    def session(self, name: str) -> InferenceSession:
        """A part of the pipeline, opened when it is first needed."""
        if name not in self.sessions:
            graph = self.folder / f"{name}.onnx"
            if name == "loop" and self.own_loop:
                graph = self.own_loop.SerializeToString()
            self.sessions[name] = open_session(graph, self.threads, prepack=name in OFTEN)
        return self.sessions[name]

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float32 -> (mels, frames), as `features.log_mel` computes it"""
        return self.session("features").run(["mel"], {"samples": samples[None].astype(np.float32)})[0][0]

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """(batch, mels, 3000) float32 -> (batch, 1500, d_model)"""
        return self.session("encoder").run(["audio"], {"mel": mel})[0]

    def language_logits(self, encoder_out: np.ndarray) -> np.ndarray:
        """(batch, 1500, d_model) -> (batch, languages) logits, in the tokenizer's order"""
        return self.session("language").run(["logits"], {"audio": encoder_out})[0]

    def new_cache(self) -> Cache:
        return Cache(self.form)

    def project_cross_kv(self, encoder_out: np.ndarray, cache: Cache) -> None:
        """(windows, 1500, d_model) for the prefill graph, which projects it together with the prompt, as article B's.

        Raises:
            OptimError: the cache has been used already.
        """
        if cache.encoder_out is not None:
            raise OptimError("This cache holds the text of other windows.", hint="Begin with `model.new_cache()`.")
        cache.encoder_out = encoder_out

    def prefill(self, tokens: np.ndarray, cache: Cache) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) float32 logits

        Raises:
            OptimError: the decoder has no positions for so many tokens, the cache holds no window, or other rows.
        """
        if cache.length + tokens.shape[1] > self.config.text_positions:
            most = self.config.text_positions
            raise OptimError(f"{cache.length} + {tokens.shape[1]} tokens are more than the decoder's {most}.")
        if cache.encoder_out is None:
            raise OptimError("The cache holds no window of sound.", hint="Call `model.project_cross_kv` first.")
        if cache.length:
            return np.stack([self.decode_step(column, cache) for column in tokens.T], axis=1)
        outputs = run_bound(self.session("prefill"), {"tokens": tokens, "audio": cache.encoder_out})
        cache.fill(outputs, tokens.shape[1], self.stored.cross_layout)
        return outputs["logits"].numpy()

    def decode_step(self, tokens: np.ndarray, cache: Cache) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits: one run of the loop graph.

        Raises:
            OptimError: the decoder has no position for it, or the cache holds other rows.
        """
        self.check_step(len(tokens), cache)
        binding = cache.bind(self.session("loop"), self.config.vocab_size)
        cache.arrays["tokens"][:], cache.arrays["position"][:] = tokens[:, None], cache.length
        cache.arrays["places"][..., -1] = cache.length
        self.session("loop").run_with_iobinding(binding)
        cache.advance()
        return cache.arrays["logits"][:, 0].copy()

    def check_step(self, texts: int, cache: Cache) -> None:
        if cache.length >= self.config.text_positions:
            raise OptimError(f"The decoder has {self.config.text_positions} positions, and the text fills them.")
        if texts != cache.texts:
            raise OptimError(f"{texts} texts for a cache of {cache.texts}.", hint="See `select_rows`.")
        fixed = next(given.shape[0] for given in self.session("loop").get_inputs() if given.name == "tokens")
        if isinstance(fixed, int) and fixed != texts:
            raise OptimError(f"{texts} texts for a loop graph of {fixed} beams.", hint="Decode with that many beams.")

    def reorder_beams(self, rows: np.ndarray, cache: Cache) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window."""
        if np.array_equal(rows, np.arange(len(rows))):
            return
        if self.form != self.stored:
            cache.reorder_beams(rows)
            return
        values = {"rows": as_value(rows.astype(np.int64)), "length": as_value(np.array([cache.length])), **cache.past}
        binding = self.session("rearrange").io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in cache.past.items():
            binding.bind_ortvalue_output(name.removeprefix("past_"), value)
        self.session("rearrange").run_with_iobinding(binding)

    def select_rows(self, rows: np.ndarray, cache: Cache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.select_rows(rows)


def freeze(value):
    return tuple(value) if isinstance(value, list) else value


def load_model(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None = None,
    loop: onnx.ModelProto | None = None,
    threads: int | None = None,
) -> Whisper:
    """The model of a checkpoint; its graphs are built on first use. Arguments as for `Whisper`.

    Args:
        tokenizer: says which tokens are languages; without it the model cannot detect one.

    Raises:
        NotAvailable: it is not installed.
        FolderError: the graphs cannot be stored.
    """
    speaks = tokenizer is not None and checkpoint.config.multilingual
    start, languages = (tokenizer.sot, list(tokenizer.languages.values())) if speaks else (0, [])
    return Whisper(checkpoint.config, find_graphs(checkpoint, start, languages), loop, threads)
