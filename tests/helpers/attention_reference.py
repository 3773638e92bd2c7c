"""Attention in NumPy and float64: what every mode on every framework is held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from labsupport.arrays import xp
from labsupport.optim import attention

# Several ragged blocks and large scores: a wrong tile shows.
RAGGED = {"seed": 7, "queries": 13, "keys": 23, "query_block": 5, "key_block": 4, "scale": 30.0, "share": 0.8,
          "mask_axes": (True, True, True, True), "causal": True}  # fmt: skip
sizes = st.integers(1, 40)
tilings = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "queries": sizes,
        "keys": sizes,
        "query_block": sizes,
        "key_block": sizes,
        "scale": st.sampled_from([0.1, 1.0, 30.0]),
        "share": st.sampled_from([None, 0.0, 0.3, 0.9]),
        "mask_axes": st.tuples(*[st.booleans()] * 4),
        "causal": st.booleans(),
    }
)


def drawn_or(known, strategy) -> Callable:
    """The known input and random ones; on MindSpore, which takes far longer for an operation, the known one alone."""
    phases = list(Phase) if xp.name == "torch" else [Phase.explicit]
    return lambda test: settings(max_examples=40, deadline=None, phases=phases)(given(strategy)(example(known)(test)))


def tensors(*arrays):
    return [None if array is None else xp.asarray(array) for array in arrays]


def largest_error(expected, function, *arrays, **options) -> float:
    """The largest difference of `function` from the expected array."""
    return float(np.abs(xp.to_numpy(function(*tensors(*arrays), **options)) - expected).max())


def tiled_error(seed, queries, keys, query_block, key_block, scale, share, mask_axes, causal) -> float:
    """How far `attention.tiled` is from the formula in float64."""
    q, k, v = draw(seed, 2, 2, queries, keys, head_dim=4, scale=scale)
    shape = tuple(n if whole else 1 for n, whole in zip((2, 2, queries, keys), mask_axes, strict=True))
    mask = None if share is None else draw_mask(seed, shape, share)
    blocks = {"query_block": query_block, "key_block": key_block}
    return largest_error(attend(q, k, v, mask, causal), attention.tiled, q, k, v, mask, causal=causal, **blocks)


def attend(q, k, v, mask=None, causal=False, window=None):
    """softmax(q k^T / sqrt(d)) v over the keys that the mask allows; zeros for a query without any."""
    weights = attention_weights(q, k, mask, causal, window)
    return weights @ v.astype(np.float64)


def attention_weights(q, k, mask=None, causal=False, window=None):
    """(batch, heads, queries, keys), each row a sum of 1, or of 0."""
    allowed = np.broadcast_to(True if mask is None else mask, (*q.shape[:3], k.shape[2]))
    ahead = np.arange(k.shape[2])[None] - np.arange(q.shape[2])[:, None] - (k.shape[2] - q.shape[2])
    if causal:
        allowed = allowed & (ahead <= 0)
    if window is not None:
        allowed = allowed & (np.abs(ahead) <= window)
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    exponentials = np.where(allowed, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    totals = exponentials.sum(-1, keepdims=True)
    return exponentials / np.where(totals == 0, 1.0, totals)


def gradients(dout, q, k, v, mask=None, causal=False):
    """The gradients of q, k and v for `dout`, that of the output, from the whole matrix of weights."""
    weights = attention_weights(q, k, mask, causal)
    q, k, v, dout = (x.astype(np.float64) for x in (q, k, v, dout))
    dweights = dout @ v.swapaxes(-1, -2)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout


def draw(seed: int, batch: int, heads: int, queries: int, keys: int, head_dim: int = 8, scale: float = 1.0):
    """Seeded q, k, v in float32; with a large `scale` the scores differ much, so that the largest matters."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, heads, length, head_dim) for length in (queries, keys, keys)]
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return q * np.float32(scale), k, v


def draw_mask(seed: int, shape: tuple[int, ...], share: float = 0.7):
    """Seeded bool; about `share` of it True."""
    return np.random.default_rng(seed).random(shape) < share
