"""Tiled attention that can be trained, on torch alone: autograd is told of the backward pass that computes again."""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.optim.attention import KEY_BLOCK, QUERY_BLOCK, tiled_with_statistics
from labsupport.optim.attention_backward import tiled_backward


class TiledAttention(torch.autograd.Function):
    """Keeps q, k, v, the output and a number for each query; no scores."""

    @staticmethod
    def forward(ctx, q, k, v, mask, causal: bool, query_block: int, key_block: int) -> Tensor:
        out, statistics = tiled_with_statistics(q, k, v, mask, causal, query_block, key_block)
        ctx.save_for_backward(q, k, v, out, statistics, mask)
        ctx.settings = (causal, query_block, key_block)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, out, statistics, mask = ctx.saved_tensors
        return *tiled_backward(grad, q, k, v, out, statistics, mask, *ctx.settings), None, None, None, None


def tiled_for_training(q, k, v, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK) -> Tensor:
    """As `attention.tiled`, with a backward pass in linear memory."""
    return TiledAttention.apply(q, k, v, mask, causal, query_block, key_block)
