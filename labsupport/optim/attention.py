"""Attention modes: one signature, so that the model takes any of them.

q, k, v: (batch, heads, length, head_dim). mask: True where a query may attend to a key; (batch, heads, queries, keys),
or the last two axes alone, and an axis may have length 1. causal: each query attends to the keys up to its own
position, where the last query has the last key's position. In every mode, a query without any key gets zeros.
"""

from __future__ import annotations

import math

from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.machine.backend import is_installed, on_ascend

# Larger blocks are faster, smaller ones need less memory: a block of scores should fit a core's cache.
QUERY_BLOCK, KEY_BLOCK = 256, 512
LOWEST = -1e30  # below every score, yet finite: -inf - -inf would be no number
WINDOW = 256  # encoder frames of 20 ms, to either side


# --- masks ------------------------------------------------------------------------------------------------------------


def positions(start: int, stop: int, like):
    """(stop - start,) int64: start .. stop - 1, on the device of the tensor `like`."""
    return xp.indices(stop - start, like) + start


def causal_mask(queries: int, keys: int, like):
    """(queries, keys) bool: the queries are the last `queries` of `keys` positions. On the device of `like`."""
    return positions(0, keys, like)[None, :] <= positions(keys - queries, keys, like)[:, None]  # (queries, keys)


def combine_masks(q, k, mask, causal: bool):
    """The mask and the causal rule as one mask; None if every query attends to every key."""
    if not causal:
        return mask
    triangle = causal_mask(q.shape[2], k.shape[2], q)
    return triangle if mask is None else mask & triangle  # (batch, heads, queries, keys), or with axes of length 1


def mask_block(mask, rows: tuple[int, int], columns: tuple[int, int]):
    """A block of a mask; an axis of length 1 stands for all positions and stays as it is."""
    if mask.shape[-2] > 1:
        mask = mask[..., rows[0] : rows[1], :]  # (batch, heads, rows, keys)
    return mask[..., columns[0] : columns[1]] if mask.shape[-1] > 1 else mask  # (batch, heads, rows, columns)


def softmax_scale(q) -> float:
    """1 / sqrt(head_dim), to multiply scores by: MindSpore's division on a CPU leaks 16 bytes a number."""
    return 1 / math.sqrt(q.shape[-1])


# --- the modes --------------------------------------------------------------------------------------------------------


def eager(q, k, v, mask=None, causal=False):
    """The formula as it is printed: softmax(q k^T / sqrt(d)) v, the whole matrix in memory (Vaswani et al. 2017)."""
    scores = q @ k.swapaxes(-1, -2) * softmax_scale(q)  # (batch, heads, queries, keys)
    mask = combine_masks(q, k, mask, causal)
    if mask is None:
        return xp.softmax(scores, axis=-1) @ v  # (batch, heads, queries, head_dim)
    # Not -inf: softmax gives NaN for a row of nothing else, and MindSpore's spoils the other rows as well.
    weights = xp.softmax(scores.masked_fill(~mask, xp.lowest(scores)), axis=-1)
    return weights.masked_fill(~mask, 0.0) @ v  # (batch, heads, queries, head_dim)


def mask_or_causal(q, k, mask, causal: bool):
    """(mask, causal) for torch's kernels: they take one of the two, and align the first query with the first key."""
    if causal and (mask is not None or q.shape[2] != k.shape[2]):
        return combine_masks(q, k, mask, causal), False
    return mask, causal


def sdpa(q, k, v, mask=None, causal=False):
    """torch's scaled_dot_product_attention, on whichever kernel torch chooses: mostly no matrix of scores in memory."""
    return xp.scaled_dot_product_attention(q, k, v, *mask_or_causal(q, k, mask, causal))


def flash(q, k, v, mask=None, causal=False):
    """The fused kernel, and no other: torch's flash kernel, or `flash_attention_score` on Ascend.

    Raises:
        NotAvailable: the kernel cannot take this input (a mask or float32 on CUDA, say); the message says why.
    """
    return xp.flash_attention(q, k, v, *mask_or_causal(q, k, mask, causal))


def tiled(q, k, v, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK):
    """FlashAttention's forward pass: one block of scores at a time (Dao et al. 2022; loops as in Dao 2023)."""
    if q.shape[2] == 1:  # a decode step: one row of scores is no matrix to avoid
        return eager(q, k, v, mask, causal)
    return tiled_with_lse(q, k, v, mask, causal, query_block, key_block)[0]


def tiled_with_lse(q, k, v, mask, causal: bool, query_block: int, key_block: int):
    """The output of `tiled` and each row's log-sum-exp of the scores, (batch, heads, queries, 1), float32 at least."""
    outputs, lses = [], []
    for rows in blocks(q.shape[2], query_block):
        out, lse = attend_rows(q, k, v, mask, causal, rows, key_block)
        outputs.append(out)
        lses.append(lse)
    return xp.concat(outputs, axis=2), xp.concat(lses, axis=2)  # (batch, heads, queries, head_dim), (..., queries, 1)


def attend_rows(q, k, v, mask, causal: bool, rows: tuple[int, int], key_block: int):
    """A block of queries against the keys that they may attend to, block by block: its output and log-sum-exp."""
    queries = xp.widen(q[:, :, rows[0] : rows[1]])  # (batch, heads, rows, head_dim)
    row_max = xp.full((*queries.shape[:3], 1), LOWEST, queries)  # (batch, heads, rows, 1)
    row_sum = xp.full((*queries.shape[:3], 1), 0.0, queries)  # (batch, heads, rows, 1)
    out = xp.full((*queries.shape[:3], v.shape[3]), 0.0, queries)  # (batch, heads, rows, head_dim)
    for columns in blocks(count_keys(q, k, causal, rows), key_block):
        scores = block_scores(q, k, mask, causal, rows, columns)
        row_max, row_sum, out = online_softmax(row_max, row_sum, out, scores, v[:, :, columns[0] : columns[1]])
    row_sum = xp.where(row_sum == 0, xp.full(row_sum.shape, 1.0, queries), row_sum)  # no key: zeros, not 0 / 0
    return (out / row_sum).to(v.dtype), row_max + xp.log(row_sum)


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of each block of `size` positions; the last one is what is left."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def count_keys(q, k, causal: bool, rows: tuple[int, int]) -> int:
    """How many keys the last of these queries attends to by the causal rule: blocks after them are never computed."""
    return min(k.shape[2], rows[1] + k.shape[2] - q.shape[2]) if causal else k.shape[2]


def block_scores(q, k, mask, causal: bool, rows: tuple[int, int], columns: tuple[int, int]):
    """(batch, heads, rows, columns) scores of a block, in float32 at least; -inf where a key is masked."""
    scores = q[:, :, rows[0] : rows[1]] @ k[:, :, columns[0] : columns[1]].swapaxes(-1, -2)
    scores = xp.widen(scores) * softmax_scale(q)  # (batch, heads, rows, columns)
    if mask is not None:
        scores = scores.masked_fill(~mask_block(mask, rows, columns), -math.inf)
    first = rows[0] + k.shape[2] - q.shape[2]  # the position of the block's first query among the keys
    if causal and columns[1] > first + 1:
        last = positions(first, first + rows[1] - rows[0], q)[:, None]  # (rows, 1): each query's last key
        scores = scores.masked_fill(positions(columns[0], columns[1], q)[None, :] > last, -math.inf)
    return scores


def online_softmax(row_max, row_sum, out, scores, values):
    """Adds a block of scores: each row's largest score, its sum of exponentials and its output so far.

    The sums so far stand relative to the old largest score, so they are scaled down to the new one.
    """
    new_max = xp.maximum(row_max, xp.max(scores, axis=-1))  # (batch, heads, rows, 1)
    rescale, weights = xp.exp(row_max - new_max), xp.exp(scores - new_max)
    row_sum = row_sum * rescale + xp.sum(weights, axis=-1)  # (batch, heads, rows, 1)
    return new_max, row_sum, out * rescale + xp.widen(weights.to(values.dtype) @ values)


def local(q, k, v, mask=None, causal=False, window=WINDOW):
    """A sliding window: each query attends to the keys at most `window` positions away (Beltagy et al. 2020), in
    linear time and memory.

    Not the same function as full attention. A distance needs positions that queries and keys share; where their numbers
    differ (cross-attention, decode steps) there are none, and each query attends to all keys.
    """
    if q.shape[2] == 1 or q.shape[2] != k.shape[2]:
        return eager(q, k, v, mask, causal)
    outputs = []
    for rows in blocks(q.shape[2], max(window, 64)):
        columns = (max(0, rows[0] - window), min(rows[1] + window, q.shape[2]))
        band = window_mask(rows, columns, window, causal, q)
        allowed = band if mask is None else band & mask_block(mask, rows, columns)
        keys, values = k[:, :, columns[0] : columns[1]], v[:, :, columns[0] : columns[1]]
        outputs.append(eager(q[:, :, rows[0] : rows[1]], keys, values, allowed))  # (batch, heads, rows, head_dim)
    return xp.concat(outputs, axis=2)  # (batch, heads, queries, head_dim)


def window_mask(rows: tuple[int, int], columns: tuple[int, int], window: int, causal: bool, like):
    """(rows, columns) bool: the key is at most `window` positions from the query, and not after it if `causal`."""
    ahead = positions(columns[0], columns[1], like)[None, :] - positions(rows[0], rows[1], like)[:, None]
    return (ahead >= -window) & (ahead <= (0 if causal else window))  # (rows, columns)


def triton(q, k, v, mask=None, causal=False):
    """Our own kernel for CUDA, written in Triton: see `flash_triton`."""
    from labsupport.optim.flash_triton import flash_triton

    return flash_triton(q, k, v, mask=mask, causal=causal)


# --- the switch -------------------------------------------------------------------------------------------------------

MODES = {"eager": eager, "sdpa": sdpa, "tiled": tiled, "flash": flash, "local": local, "triton": triton}
TRANSFORMERS = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}


def get_attention(name: str):
    """The attention function called `name`; OptimError if there is none, NotAvailable if this process cannot run it."""
    if name not in MODES:
        raise OptimError(f"There is no attention mode {name!r}.", hint=f"Choose one of {', '.join(MODES)}.")
    if missing := find_missing(name):
        raise NotAvailable(missing, where=name, hint=f"Use one of {', '.join(available_modes())} here.")
    return MODES[name]


def available_modes() -> list[str]:
    """The names of the modes that this process can run."""
    return [name for name in MODES if not find_missing(name)]


def find_missing(name: str) -> str | None:
    """What the mode `name` needs and this process lacks, as a sentence; None where it can run."""
    on_torch = xp.name == "torch"
    if name == "sdpa" and not on_torch:
        return "MindSpore has no scaled_dot_product_attention: that is torch's."
    if name == "flash" and not on_torch and not on_ascend():
        return "MindSpore's flash_attention_score has a kernel for Ascend NPUs alone."
    if name == "triton" and not on_torch:
        return "Triton's kernels work on torch's tensors."
    if name == "triton" and not xp.has_cuda():
        return "Our Triton kernel needs an NVIDIA GPU."
    return "Our Triton kernel needs the package triton." if name == "triton" and not is_installed("triton") else None


def transformers_name(name: str) -> str:
    """Our mode's name as transformers' `attn_implementation` has it; OptimError where transformers has no such mode."""
    if name not in TRANSFORMERS:
        what = f"transformers has no attention mode like our {name!r}." if name in MODES else f"No mode {name!r}."
        raise OptimError(what, where=name, hint=f"Choose one of {', '.join(TRANSFORMERS)}.")
    return TRANSFORMERS[name]
