"""What autograd keeps for the backward pass, counted. For torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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
