"""What autograd saves for the backward pass, counted. For torch alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], weights: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd saves for backward in `forward`; each storage counts once.

    Args:
        weights: tensors that exist anyway, and do not count.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # held, so that no address is freed and used again
    existing = {weight.untyped_storage().data_ptr() for weight in weights}
    del result
    return sum(size for address, size in sizes.items() if address not in existing)
