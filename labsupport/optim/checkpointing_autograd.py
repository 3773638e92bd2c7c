"""Activations computed again, on torch alone: autograd is told of layers whose insides nobody kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def go_through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Each layer takes what the one before gave."""
    for layer in layers:
        x = layer(x)
    return x


class Recomputed(torch.autograd.Function):
    """Keeps the layers' input; backward runs them once more, and then goes back through them.

    Layers must give the same numbers both times: none with dropout. `weights` are the layers' own, handed in because
    only what comes in gets gradients.
    """

    @staticmethod
    def forward(ctx, layers: Sequence[nn.Module], x: Tensor, *weights: Tensor) -> Tensor:
        device = x.device.type
        ctx.layers = layers
        ctx.precision = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.save_for_backward(x, *weights)
        return go_through(layers, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        entry, *weights = ctx.saved_tensors
        entry = entry.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad(), torch.autocast(*ctx.precision):  # as in forward, or it would be another number
            out = go_through(ctx.layers, entry)
        learning = [tensor for tensor in (entry, *weights) if tensor.requires_grad]
        found = iter(torch.autograd.grad(out, learning, gradient))
        return None, *(next(found) if tensor.requires_grad else None for tensor in (entry, *weights))


def recompute(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """As `go_through`, keeping nothing but `x`."""
    return Recomputed.apply(layers, x, *(weight for layer in layers for weight in layer.parameters()))


def kept_bytes(run: Callable[[], object], weights: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd keeps for backward when `run` has gone forward; each piece of memory counts once.

    Args:
        weights: tensors that are there anyway, and do not count.
    """
    seen: dict[int, int] = {}

    def look(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        result = run()  # held, so that no address is freed and used again
    there = {weight.untyped_storage().data_ptr() for weight in weights}
    del result
    return sum(size for address, size in seen.items() if address not in there)
