"""`xp` on torch; its twin is `on_mindspore`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, exp, log, maximum, nn, where
from torch.nn.attention import SDPBackend, sdpa_kernel

from labsupport.base.errors import NotAvailable

__all__ = ["exp", "log", "maximum", "where"]

name = "torch"


def asarray(array: np.ndarray, like: Tensor | None = None) -> Tensor:
    """A tensor of the same numbers, where `like` is; without `like` on the CPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if like is None else tensor.to(like.device)


def to_numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def cast(x: Tensor, dtype: str) -> Tensor:
    """`dtype` by name: "float32", "float16", "int64"."""
    return x.to(getattr(torch, dtype))


def widen(x: Tensor) -> Tensor:
    """float16 and bfloat16 to float32, for sums; any other dtype stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def lowest(x: Tensor) -> float:
    """A number below any score that `x`'s dtype can hold; finite."""
    return -65504.0 if x.dtype == torch.float16 else -1e30


def compiled(function: Callable) -> Callable:
    """`function` itself: torch runs op by op at full speed, and torch.compile has a notebook of its own."""
    return function


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def indices(stop: int, like: Tensor) -> Tensor:
    """0 .. stop - 1 as int64, where `like` is."""
    return torch.arange(stop, device=like.device)


def full(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    """Of `like`'s dtype, where `like` is."""
    return torch.full(shape, value, dtype=like.dtype, device=like.device)


def softmax(x: Tensor, axis: int) -> Tensor:
    return x.softmax(axis)


def max(x: Tensor, axis: int) -> Tensor:
    """The largest along `axis`, which stays, with length 1."""
    return x.amax(axis, keepdim=True)


def sum(x: Tensor, axis: int) -> Tensor:
    """The sum along `axis`, which stays, with length 1."""
    return x.sum(axis, keepdim=True)


def concat(arrays: list[Tensor], axis: int) -> Tensor:
    return torch.cat(arrays, dim=axis)


def take(x: Tensor, rows: Tensor, axis: int = 0) -> Tensor:
    """The given rows (int64) along `axis`, in their order."""
    return x.index_select(axis, rows)


def buffer(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros to be written in place, in inference mode and outside of it."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


def write(buffer: Tensor, new: Tensor, position: Tensor) -> Tensor:
    """`buffer` itself, with `new` at the indices `position` (int64) of its third axis."""
    return buffer.index_copy_(2, position, new)


def move_rows(buffer: Tensor, source: np.ndarray, target: np.ndarray, stop: int | None) -> Tensor:
    """Row `target[i]` becomes what row `source[i]` was, in place, up to `stop` on the third axis."""
    filled = buffer[:, :, :stop]
    filled.index_copy_(0, asarray(target, buffer), filled.index_select(0, asarray(source, buffer)))
    return buffer


def fill_rows(buffer: Tensor, values: Tensor) -> None:
    """Writes `values` at the beginning of the third axis, in place."""
    buffer[:, :, : values.shape[2]] = values


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of `x` in which row `rows[i]` of the first axis is `values[i]`."""
    return x.index_copy(0, rows, values)


def pad(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros around the last axis."""
    return F.pad(x, (before, after))


def conv2d(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """(batch, channels, height, width), (out, channels, kernel height, kernel width), zeros around both axes."""
    return F.conv2d(x, weight, stride=stride, padding=padding)


def conv1d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """(batch, channels, frames), (out, channels, kernel), (out,), zeros around both ends."""
    return F.conv1d(x, weight, bias, stride=stride, padding=padding)


conv1d_operator = conv1d  # torch has one function for both


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's own, on whichever kernel it chooses; `causal` aligns the first query with the first key."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's flash kernel and no other; `causal` as above. Raises NotAvailable, with torch's own reasons."""
    with warnings.catch_warnings(record=True) as reasons, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        warnings.simplefilter("always")
        try:
            return scaled_dot_product_attention(q, k, v, mask, causal)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
    why = " ".join(str(reason.message).partition(" (Triggered")[0] for reason in reasons)
    raise NotAvailable("torch's flash kernel cannot take this input.", where=why, hint='Use "sdpa" or "tiled".')


def apply_layers(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The layers one after the other."""
    for layer in layers:
        x = layer(x)
    return x


class Recompute(torch.autograd.Function):
    """Saves the layers' input; backward runs the layers again. They must give the same numbers: no dropout.

    `weights` are those of the layers: autograd gives gradients to inputs alone.
    """

    @staticmethod
    def forward(ctx, layers: Sequence[nn.Module], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.layers, device = layers, x.device.type
        ctx.precision = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(x, *weights)
        return apply_layers(layers, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad(), torch.autocast(*ctx.precision):  # as in forward, or it would be another number
            out = apply_layers(ctx.layers, x)
        trained = [tensor for tensor in (x, *weights) if tensor.requires_grad]
        found = iter(torch.autograd.grad(out, trained, gradient))
        return None, *(next(found) if tensor.requires_grad else None for tensor in (x, *weights))


def recompute(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The layers one after the other; for backward only `x` is saved, and the rest is computed again."""
    return Recompute.apply(layers, x, *(weight for layer in layers for weight in layer.parameters()))


def gradients(loss: Callable[[], Tensor], model: nn.Module) -> dict[str, np.ndarray]:
    """The gradient of the loss for each of the model's weights, by name."""
    model.zero_grad()
    loss().backward()
    return {name: to_numpy(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}


def has_cuda() -> bool:
    """Whether torch can use an NVIDIA GPU."""
    return torch.cuda.is_available()
