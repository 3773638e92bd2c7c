"""Tiled attention that can be trained, on torch alone: an autograd function whose backward pass recomputes scores."""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.optim.attention import KEY_BLOCK, QUERY_BLOCK, tiled_with_lse
from labsupport.optim.attention_backward import tiled_backward


class TiledAttention(torch.autograd.Function):
    """Saves q, k, v, the output and one number for each query; no scores."""

    @staticmethod
    def forward(ctx, q, k, v, mask, causal: bool, query_block: int, key_block: int) -> Tensor:
        out, lse = tiled_with_lse(q, k, v, mask, causal, query_block, key_block)
        ctx.save_for_backward(q, k, v, out, lse, mask)
        ctx.settings = (causal, query_block, key_block)
        return out

    @staticmethod
    def backward(ctx, dout: Tensor):
        q, k, v, out, lse, mask = ctx.saved_tensors
        return *tiled_backward(dout, q, k, v, out, lse, mask, *ctx.settings), None, None, None, None


def tiled_for_training(q, k, v, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK) -> Tensor:
    """As `attention.tiled`, with a backward pass in linear memory."""
    return TiledAttention.apply(q, k, v, mask, causal, query_block, key_block)
