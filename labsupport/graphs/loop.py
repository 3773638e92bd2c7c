"""Runs a loop graph in ONNX Runtime, in any form that `optim.graph` gives it, and keeps its caches as that form wants.

Caches go in and come out as the first form has them, (beams, length, heads, head_dim), so that forms can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import GraphError
from labsupport.graphs.loop_interface import GROWS, SHIFTS, read_interface
from labsupport.graphs.session import count_threads
from labsupport.profiling.on_onnxruntime import read_onnxruntime, record_session
from labsupport.profiling.table import Table, table_of

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from labsupport.checkpoints.resolve import Checkpoint


def open_session(
    model: onnx.ModelProto, optimise: bool = True, threads: int | None = None, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        optimise: whether ONNX Runtime's own optimiser may rewrite the graph (all levels), or not at all.
        threads: for one op; by default as many as the engine takes (`onnx_model.count_threads`).
        profile: the beginning of a file name for ONNX Runtime's profile; none is written without it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or count_threads()
    options.log_severity_level = 3  # errors
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Loop:
    """A loop graph with its caches. `step` is one decode step; `run` and `advance` are its halves, `run` to be timed.

    Args:
        cross: cross_k.i and cross_v.i, (1, 1500, heads, head_dim) float32.
        past: past_k.i and past_v.i, (beams, length, heads, head_dim) float32: the tokens so far.
        settings: as for `open_session`.

    Raises:
        GraphError: this is no loop graph, or the past is longer than its caches.
    """

    def __init__(
        self, model: onnx.ModelProto, cross: Mapping[str, np.ndarray], past: Mapping[str, np.ndarray], **settings
    ):
        self.form, self.position = read_interface(model), next(iter(past.values())).shape[1]
        self.session = open_session(model, **settings)
        self.binding = self.session.io_binding()
        self.bound: dict[str, onnxruntime.OrtValue] = {}  # a binding does not keep an array's memory, its OrtValue does
        self.present = [name.removeprefix("past_") for name in past]
        for name, array in cross.items():
            self.bind_input(name, array.transpose(self.form.cross_layout))
        self.caches = {name: as_value(self.store(array)) for name, array in past.items()}
        self.spare = {name: as_value(value.numpy().copy()) for name, value in self.caches.items() if self.shifts}

    @property
    def shifts(self) -> bool:
        return self.form.cache == SHIFTS

    def store(self, rows: np.ndarray) -> np.ndarray:
        """(beams, length, heads, head_dim) -> as this graph keeps them."""
        if self.form.cache == GROWS:
            return rows.transpose(self.form.layout)
        beams, length, *rest = rows.shape
        if length >= self.form.capacity:
            raise GraphError(f"A past of {length} tokens leaves no room in caches of {self.form.capacity}.")
        whole = np.zeros((beams, self.form.capacity, *rest), np.float32)
        whole[:, self.form.capacity - length if self.shifts else 0 :][:, :length] = rows
        return whole.transpose(self.form.layout)

    def bind_input(self, name: str, array: np.ndarray) -> None:
        self.bound[name] = as_value(array)
        self.binding.bind_ortvalue_input(name, self.bound[name])

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """(beams, 1) int64 -> logits (beams, 1, vocab), without going on: the same call gives the same again."""
        self.bind_input("tokens", tokens)
        self.bind_input("position", np.array([self.position], np.int64))
        for name, value in self.caches.items():
            self.binding.bind_ortvalue_input(name, value)
        self.binding.bind_output("logits")
        for name in self.present:
            if self.form.cache == GROWS:
                self.binding.bind_output(name)
            else:
                target = self.spare if self.shifts else self.caches
                self.binding.bind_ortvalue_output(name, target[f"past_{name}"])
        self.session.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[0].numpy()

    def advance(self) -> None:
        """Takes the new row of the last `run` into the past."""
        if self.form.cache == GROWS:
            new = self.binding.get_outputs()[1:]
            self.caches = {f"past_{name}": value for name, value in zip(self.present, new, strict=True)}
        elif self.shifts:
            self.caches, self.spare = self.spare, self.caches
        self.position += 1

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """One decode step."""
        logits = self.run(tokens)
        self.advance()
        return logits

    def rows(self, name: str) -> np.ndarray:
        """A copy of the rows of a cache that hold tokens: `past_k.0` -> (beams, length, heads, head_dim)."""
        rows = self.caches[name].numpy().transpose(np.argsort(self.form.layout))
        return (rows[:, -self.position :] if self.shifts else rows[:, : self.position]).copy()


def cross_inputs(checkpoint: Checkpoint, sound: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's keys and values of encoded sound (1, 1500, d_model): cross_k.i, cross_v.i as `Loop` wants them."""
    tensors, config = dict(checkpoint.tensors()), checkpoint.config
    made = {}
    for layer in range(config.decoder_layers):
        where = f"model.decoder.layers.{layer}.encoder_attn"
        made[f"cross_k.{layer}"] = sound @ tensors[f"{where}.k_proj.weight"].T
        made[f"cross_v.{layer}"] = sound @ tensors[f"{where}.v_proj.weight"].T + tensors[f"{where}.v_proj.bias"]
    return {name: x.reshape(1, -1, config.heads, config.head_dim).astype(np.float32) for name, x in made.items()}


def past_after(
    model: onnx.ModelProto, checkpoint: Checkpoint, cross: Mapping[str, np.ndarray], tokens: list[int], beams: int = 5
) -> dict[str, np.ndarray]:
    """The past, past_k.i and past_v.i, of beams that have all read these tokens, by a loop graph itself."""
    config = checkpoint.config
    empty = np.zeros((beams, 0, config.heads, config.head_dim), np.float32)
    loop = Loop(model, cross, {name.replace("cross", "past"): empty for name in cross})
    for token in tokens:
        loop.step(np.full((beams, 1), token))
    return {name: loop.rows(name) for name in loop.caches}


def as_value(array: np.ndarray) -> onnxruntime.OrtValue:
    """The array's own memory, which lives as long as what this gives, and no longer for being bound."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def profile_step(
    model: onnx.ModelProto,
    cross: Mapping[str, np.ndarray],
    past: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    folder: Path,
    runs: int = 9,
    **settings,
) -> Table:
    """The op table of one step by ONNX Runtime's own profiler: the step of median time among `runs` after a first.

    The trace stays in `folder`; arguments as for `Loop`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(model, cross, past, profile=folder / "session", **settings)
    record_session(loop.session, lambda: loop.run(tokens), runs + 1, folder / "trace.json")
    ops, steps = read_onnxruntime(folder / "trace.json")
    typical = sorted(steps[1:], key=lambda step: step.ms)[runs // 2]
    return table_of(op for op in ops if op.phase == typical.name)
