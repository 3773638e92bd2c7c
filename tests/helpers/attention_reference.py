"""Attention in NumPy and float64: what every mode on every framework is held against."""

from __future__ import annotations

import numpy as np


def attend(q, k, v, mask=None, causal=False, window=None):
    """softmax(q k^T / sqrt(d)) v over the keys that may be seen; zeros for a query that may see none."""
    weights = attention_weights(q, k, mask, causal, window)
    return weights @ v.astype(np.float64)


def attention_weights(q, k, mask=None, causal=False, window=None):
    """(batch, heads, queries, keys), each row a sum of 1, or of 0."""
    seen = np.broadcast_to(True if mask is None else mask, (*q.shape[:3], k.shape[2]))
    ahead = np.arange(k.shape[2])[None] - np.arange(q.shape[2])[:, None] - (k.shape[2] - q.shape[2])
    if causal:
        seen = seen & (ahead <= 0)
    if window is not None:
        seen = seen & (np.abs(ahead) <= window)
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    exponentials = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    totals = exponentials.sum(-1, keepdims=True)
    return exponentials / np.where(totals == 0, 1.0, totals)


def gradients(grad, q, k, v, mask=None, causal=False):
    """The gradients of q, k and v for `grad`, that of the output, from the whole matrix of weights."""
    weights = attention_weights(q, k, mask, causal)
    q, k, v, grad = (x.astype(np.float64) for x in (q, k, v, grad))
    for_weights = grad @ v.swapaxes(-1, -2)
    for_scores = weights * (for_weights - (weights * for_weights).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return for_scores @ k, for_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ grad


def draw(seed: int, batch: int, heads: int, queries: int, keys: int, head_dim: int = 8, scale: float = 1.0):
    """Seeded q, k, v in float32; with a large `scale` the scores differ much, so that the largest matters."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, heads, length, head_dim) for length in (queries, keys, keys)]
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return q * np.float32(scale), k, v


def draw_mask(seed: int, shape: tuple[int, ...], share: float = 0.7):
    """Seeded bool; about `share` of it True."""
    return np.random.default_rng(seed).random(shape) < share
