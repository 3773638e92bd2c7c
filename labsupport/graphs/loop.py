"""A loop graph run on its own, in any form that `graphs.passes` gives it: its steps compared, timed and profiled.

Caches go in and come out as the first form has them, (beams, length, heads, head_dim), so that forms can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.graphs.loop_cache import LoopCache
from labsupport.graphs.loop_interface import read_interface
from labsupport.graphs.session import as_value, open_session
from labsupport.profiling.on_onnxruntime import read_onnxruntime, record_session
from labsupport.profiling.table import Table, op_table

if TYPE_CHECKING:
    import onnx

    from labsupport.checkpoints.resolve import Checkpoint

Arrays = dict[str, np.ndarray]


class Loop:
    """A loop graph with its cache. `run` is a decode step without going on, to be timed; `decode_step` goes on.

    Args:
        cross_kv: cross_k.i and cross_v.i, (1, 1500, heads, head_dim) float32.
        past: past_k.i and past_v.i, (beams, length, heads, head_dim) float32: the tokens so far.
        settings: as for `open_session`.
    """

    def __init__(self, model: onnx.ModelProto, cross_kv: Arrays, past: Arrays, **settings) -> None:
        self.session = open_session(model, **settings)
        self.cache = LoopCache(read_interface(model))
        self.cache.fill({name.removeprefix("past_"): as_value(array) for name, array in (cross_kv | past).items()})

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """(beams,) int64 -> (beams, vocab) float32 logits; the same call gives the same again"""
        return self.cache.run(self.session, tokens)

    def decode_step(self, tokens: np.ndarray) -> np.ndarray:
        """(beams,) int64 -> (beams, vocab) float32 logits"""
        logits = self.run(tokens)
        self.cache.advance()
        return logits


def project_cross_kv(checkpoint: Checkpoint, encoder_out: np.ndarray) -> dict[str, np.ndarray]:
    """(windows, 1500, d_model) -> cross_k.i and cross_v.i of every layer, (windows, 1500, heads, head_dim) float32"""
    tensors, config = dict(checkpoint.tensors()), checkpoint.config
    cross_kv = {}
    for layer in range(config.decoder_layers):
        name = f"model.decoder.layers.{layer}.encoder_attn"
        cross_kv[f"cross_k.{layer}"] = encoder_out @ tensors[f"{name}.k_proj.weight"].T
        cross_kv[f"cross_v.{layer}"] = encoder_out @ tensors[f"{name}.v_proj.weight"].T + tensors[f"{name}.v_proj.bias"]
    shape = (*encoder_out.shape[:2], config.heads, config.head_dim)
    return {name: x.reshape(shape).astype(np.float32) for name, x in cross_kv.items()}


def past_after(
    model: onnx.ModelProto, checkpoint: Checkpoint, cross_kv: Arrays, tokens: Iterable[int], beams: int = 5
) -> dict[str, np.ndarray]:
    """past_k.i and past_v.i of beams that have all read these tokens, computed by a loop graph, token by token."""
    config = checkpoint.config
    empty = np.zeros((beams, 0, config.heads, config.head_dim), np.float32)
    loop = Loop(model, cross_kv, {name.replace("cross", "past"): empty for name in cross_kv})
    for token in tokens:
        loop.decode_step(np.full(beams, token))
    return {name: loop.cache.read(name) for name in loop.cache.self_kv}


def profile_step(
    model: onnx.ModelProto, cross_kv: Arrays, past: Arrays, tokens: np.ndarray, folder: Path, runs: int = 9, **settings
) -> Table:
    """The op table of one step by ONNX Runtime's profiler: the step of median time among `runs` after a first.

    The trace stays in `folder`; arguments as for `Loop`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(model, cross_kv, past, profile=folder / "session", **settings)
    record_session(loop.session, lambda: loop.run(tokens), runs + 1, folder / "trace.json")
    ops, steps = read_onnxruntime(folder / "trace.json")
    typical = sorted(steps[1:], key=lambda step: step.ms)[runs // 2]
    return op_table(op for op in ops if op.phase == typical.name)
