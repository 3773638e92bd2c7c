"""Attention modes: one signature, so that the model takes any of them.

q, k, v: (batch, heads, length, head_dim); mask: True where a query may see a key, broadcast to
(batch, heads, queries, keys); causal: each query sees the keys up to its own place, the last query all of them.
"""

from __future__ import annotations

import math

from ..arrays import xp
from ..errors import LabError


class UnknownAttention(LabError):
    """No attention mode has this name."""


class AttentionNotHere(LabError):
    """The mode needs hardware or a package that is not here."""


def causal_mask(queries: int, keys: int, like):
    """(queries, keys) bool: the queries are the last `queries` places of `keys`. On the device of the tensor `like`."""
    places = xp.indices(keys, like)
    return places[None, :] <= places[keys - queries :, None]


def visible(q, k, mask, causal: bool):
    """The mask and the causal rule in one (None if every query sees every key)."""
    if not causal:
        return mask
    triangle = causal_mask(q.shape[2], k.shape[2], q)
    return triangle if mask is None else mask & triangle


def eager(q, k, v, mask=None, causal=False):
    """The formula as it is printed: softmax(q k^T / sqrt(d)) v, the whole matrix in memory (Vaswani et al. 2017)."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    seen = visible(q, k, mask, causal)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return xp.softmax(scores, axis=-1) @ v


def sdpa(q, k, v, mask=None, causal=False):
    """torch's fused attention: no matrix of scores in memory."""
    if causal and q.shape[2] != k.shape[2]:  # torch's own flag aligns the first query with the first key
        mask, causal = visible(q, k, mask, causal), False
    return xp.scaled_dot_product_attention(q, k, v, mask, causal)


MODES = {"eager": eager, "sdpa": sdpa}


def get_attention(name: str):
    """The attention function called `name`.

    Raises:
        UnknownAttention: there is none; the message lists those there are.
        AttentionNotHere: it needs what is not here; the message says what, and what to use instead.
    """
    if name not in MODES:
        raise UnknownAttention(f"There is no attention mode {name!r}.", hint=f"Choose one of {', '.join(MODES)}.")
    if name == "sdpa" and xp.name != "torch":
        raise AttentionNotHere("MindSpore has no scaled_dot_product_attention.", hint='Use "eager" here.')
    return MODES[name]
