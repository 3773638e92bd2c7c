"""Our own fused attention for CUDA, written in Triton: FlashAttention-2's forward pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labsupport.base.errors import NotAvailable
from labsupport.machine.backend import is_installed

if TYPE_CHECKING:
    from torch import Tensor

HEAD_DIMS = (16, 32, 64, 128)
DTYPES = ("float16", "bfloat16", "float32")


def flash_triton(q: Tensor, k: Tensor, v: Tensor, mask: None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, and no matrix of scores in memory.

    q, k, v: (batch, heads, length, head_dim) on CUDA, all three float16, bfloat16 or float32; k and v may have another
    length than q. causal: the last query attends to all keys; a query without any key gets zeros. The first call for a
    new kind of shape tunes the kernel, which takes some seconds.

    Raises:
        NotAvailable: no CUDA, no triton, or an input that the kernel does not take; the message says which.
    """
    for what, hint in find_unsupported(q, k, v, mask):
        raise NotAvailable(what, hint=hint)
    from labsupport.optim.flash_triton_kernel import launch

    return launch(q, k, v, causal)


def find_unsupported(q: Tensor, k: Tensor, v: Tensor, mask: object) -> Iterator[tuple[str, str]]:
    """What the kernel cannot take, and what to use instead."""
    import torch

    if mask is not None:
        yield "Our Triton kernel takes no mask.", 'Use "sdpa", or causal=True if the mask is the causal one.'
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # on CPU tensors: slow, for tests
    if not (q.is_cuda or interpreted):
        yield "Our Triton kernel needs an NVIDIA GPU, and its tensors there.", 'Use "sdpa" on this machine.'
    if not is_installed("triton"):
        yield "Our Triton kernel needs the package triton.", 'torch for CUDA installs it; "sdpa" runs without.'
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        yield "Our Triton kernel has no backward pass.", 'Call it in torch.no_grad(), or train with "sdpa".'
    if q.shape[-1] not in HEAD_DIMS:
        yield f"Our Triton kernel has no head_dim {q.shape[-1]}.", f'It has {HEAD_DIMS}; "sdpa" has all.'
    dtypes = {str(x.dtype).removeprefix("torch.") for x in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        yield f"Our Triton kernel cannot take {' with '.join(sorted(dtypes))}.", f"Give all three as one of {DTYPES}."
