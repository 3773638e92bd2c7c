"""Attention modes: one signature, so that the model takes any of them.

q, k, v: (batch, heads, length, head_dim); mask: True where a query may see a key, broadcast to
(batch, heads, queries, keys); causal: each query sees the keys up to its own place, the last query all of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..errors import LabError


class UnknownAttention(LabError):
    """No attention mode has this name."""


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> torch.Tensor:
    """(queries, keys) bool: the queries are the last `queries` places of `keys`."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def eager(q, k, v, mask=None, causal=False):
    """The formula as it is printed: softmax(q k^T / sqrt(d)) v, the whole matrix in memory (Vaswani et al. 2017)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def sdpa(q, k, v, mask=None, causal=False):
    """torch's fused attention: no matrix of scores in memory."""
    if causal and q.shape[2] != k.shape[2]:  # torch's own flag aligns the first query with the first key
        visible = causal_mask(q.shape[2], k.shape[2], q.device)
        mask, causal = visible if mask is None else mask & visible, False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


MODES = {"eager": eager, "sdpa": sdpa}


def get_attention(name: str):
    """The attention function called `name`.

    Raises:
        UnknownAttention: there is none; the message lists those there are.
    """
    if name not in MODES:
        raise UnknownAttention(f"There is no attention mode {name!r}.", hint=f"Choose one of {', '.join(MODES)}.")
    return MODES[name]
