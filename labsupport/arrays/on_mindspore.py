"""`xp` on MindSpore. A function without a docstring does what its twin in `on_torch` says.

Written on `ops`: much of `mint` has no CPU kernels in 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import exp, log, maximum, where

__all__ = ["exp", "log", "maximum", "where"]

name = "mindspore"


def asarray(array: np.ndarray, like: Tensor | None = None) -> Tensor:
    """A tensor of the same numbers; MindSpore has one device a process, so `like` changes nothing."""
    return Tensor(np.ascontiguousarray(array))


def to_numpy(x: Tensor) -> np.ndarray:
    return x.asnumpy()


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.astype(getattr(mstype, dtype))


def widen(x: Tensor) -> Tensor:
    return x.astype(mstype.float32) if x.dtype in (mstype.float16, mstype.bfloat16) else x


def lowest(x: Tensor) -> float:
    return -65504.0 if x.dtype == mstype.float16 else -1e30


def compiled(function: Callable) -> Callable:
    """`function` as a graph, built on its first call with each set of shapes."""
    return ms.jit(function)


def graphs_compiled() -> int:
    """How many graphs `ms.jit` has made in this process, by MindSpore's own list."""
    return len(ms.common.api.ms_compile_cache)


def indices(stop: int, like: Tensor) -> Tensor:
    return ops.arange(stop)


def full(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    return ops.full(shape, value, dtype=like.dtype)


def softmax(x: Tensor, axis: int) -> Tensor:
    return ops.softmax(x, axis)


def max(x: Tensor, axis: int) -> Tensor:
    return ops.amax(x, axis, True)


def sum(x: Tensor, axis: int) -> Tensor:
    return ops.sum(x, axis, True)


def concat(arrays: list[Tensor], axis: int) -> Tensor:
    return ops.cat(arrays, axis)


def take(x: Tensor, rows: Tensor, axis: int = 0) -> Tensor:
    return ops.gather(x, rows, axis)


def buffer(shape: tuple[int, ...], like: Tensor) -> Parameter:
    """Zeros to be written in place: a graph can write to a Parameter alone."""
    return Parameter(ops.zeros(shape, like.dtype), requires_grad=False)


def write(buffer: Parameter, new: Tensor, position: Tensor) -> Tensor:
    rows, heads = new.shape[:2]
    index = ops.meshgrid(ops.arange(rows), ops.arange(heads), position, indexing="ij")
    return ops.scatter_nd_update(buffer, ops.stack(index, -1), new)


def move_rows(buffer: Tensor, source: np.ndarray, target: np.ndarray, stop: int | None) -> Tensor:
    """Row `target[i]` becomes what row `source[i]` was, in place if `buffer` is a Parameter. Rows move whole here."""
    rows = np.arange(buffer.shape[0])
    rows[target] = source
    moved = ops.gather(buffer, Tensor(rows), 0)
    if not isinstance(buffer, Parameter):
        return moved
    ops.assign(buffer, moved)
    return buffer


def fill_rows(buffer: Parameter, values: Tensor) -> None:
    ops.assign(buffer, ops.cat([values, buffer[:, :, values.shape[2] :]], 2))


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    return ops.tensor_scatter_update(x, rows.expand_dims(-1), values)


def pad(x: Tensor, before: int, after: int) -> Tensor:
    return ops.pad(x, (before, after))


def conv2d(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    return ops.conv2d(x, weight, stride=stride, pad_mode="pad", padding=padding)


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    return ops.conv1d(x, weight, bias, stride=stride, pad_mode="pad", padding=padding)


def conv1d_operator(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """`conv1d` by one kernel, where there is one (Ascend); elsewhere MindSpore raises RuntimeError."""
    return mint.nn.functional.conv1d(x, weight, bias, stride, padding)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Ascend's fused kernel in BSND: float16 or bfloat16, head_dim a multiple of 16; TypeError for other dtypes."""
    hidden = later_keys() if causal else None
    if mask is not None:
        mask = mask[None, None] if mask.ndim == 2 else mask  # (batch, heads, queries, keys), or axes of length 1
        hidden = ~mask.broadcast_to((q.shape[0], mask.shape[1], q.shape[2], k.shape[2]))
    q, k, v = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)  # (batch, length, heads, head_dim)
    settings = {"attn_mask": hidden, "sparse_mode": 3 if mask is None and causal else 0, "input_layout": "BSND"}
    out = ops.flash_attention_score(q, k, v, q.shape[2], scalar_value=1 / math.sqrt(q.shape[-1]), **settings)
    out = out.swapaxes(1, 2)  # (batch, heads, queries, head_dim)
    return out if mask is None or hidden is None else out.masked_fill(hidden.all(-1, keep_dims=True), 0.0)


def flash_packed(q: Tensor, k: Tensor, v: Tensor, ends: list[int], causal: bool) -> Tensor:
    """Ascend's fused kernel in TND, (total, heads, head_dim): sequences in a row, the ith up to `ends[i]`."""
    settings = {"attn_mask": later_keys() if causal else None, "sparse_mode": 3 if causal else 0, "input_layout": "TND"}
    settings |= {"actual_seq_qlen": ends, "actual_seq_kvlen": ends, "scalar_value": 1 / math.sqrt(q.shape[-1])}
    return ops.flash_attention_score(q, k, v, q.shape[1], **settings)  # (total, heads, head_dim)


def later_keys() -> Tensor:
    """(2048, 2048) bool: the causal mask in the compressed form that the kernel takes in sparse mode 3."""
    return ops.ones((2048, 2048), mstype.bool_).triu(1)


class Group(nn.Cell):
    """Layers one after the other as one cell, as `ms.recompute` requires; their weights keep their names."""

    def __init__(self, layers: Sequence[nn.Cell]):
        super().__init__(auto_prefix=False)
        self.layers = nn.CellList(layers, auto_prefix=False)

    def construct(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def recompute(layers: Sequence[nn.Cell], x: Tensor) -> Tensor:
    """The layers one after the other; for backward only `x` is saved, and the rest is computed again. Op by op only."""
    return ms.recompute(Group(layers), x)


def gradients(loss: Callable[[], Tensor], model: nn.Cell) -> dict[str, np.ndarray]:
    weights = model.trainable_params()
    _, found = ms.value_and_grad(loss, None, weights)()
    return {weight.name: to_numpy(gradient) for weight, gradient in zip(weights, found, strict=True)}
