"""Attention modes: one signature, so that the model takes any of them.

q, k, v: (batch, heads, length, head_dim). mask: True where a query may see a key; (batch, heads, queries, keys), or the
last two axes alone, and an axis may have length 1. causal: each query sees the keys up to its own place, where the last
query has the last key's place. In every mode, a query that may see no key gets zeros.
"""

from __future__ import annotations

import math

from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.machine.backend import is_installed, on_ascend

# Large blocks keep the matrix products busy, small ones the memory low. A GPU's kernel takes far smaller ones, which
# fit its on-chip memory; here a block of scores has to fit a core's cache, more or less.
QUERY_BLOCK, KEY_BLOCK = 256, 512
LOWEST = -1e30  # below every score, yet finite: -inf - -inf would be no number
WINDOW = 256  # encoder frames of 20 ms, to either side


# --- who may see whom -------------------------------------------------------------------------------------------------


def places(start: int, stop: int, like):
    """start .. stop - 1 on the device of the tensor `like`."""
    return xp.indices(stop - start, like) + start


def causal_mask(queries: int, keys: int, like):
    """(queries, keys) bool: the queries are the last `queries` places of `keys`. On the device of the tensor `like`."""
    return places(0, keys, like)[None, :] <= places(keys - queries, keys, like)[:, None]


def visible(q, k, mask, causal: bool):
    """The mask and the causal rule in one (None if every query sees every key)."""
    if not causal:
        return mask
    triangle = causal_mask(q.shape[2], k.shape[2], q)
    return triangle if mask is None else mask & triangle


def cut(mask, rows: tuple[int, int], columns: tuple[int, int]):
    """A block of a mask; an axis of length 1 stands for all places and stays as it is."""
    if mask.shape[-2] > 1:
        mask = mask[..., rows[0] : rows[1], :]
    return mask[..., columns[0] : columns[1]] if mask.shape[-1] > 1 else mask


def scale(q) -> float:
    """1 / sqrt(head_dim), to multiply scores by: MindSpore's division on a CPU keeps 16 bytes a number for good."""
    return 1 / math.sqrt(q.shape[-1])


# --- the modes --------------------------------------------------------------------------------------------------------


def eager(q, k, v, mask=None, causal=False):
    """The formula as it is printed: softmax(q k^T / sqrt(d)) v, the whole matrix in memory (Vaswani et al. 2017)."""
    scores = q @ k.swapaxes(-1, -2) * scale(q)
    seen = visible(q, k, mask, causal)
    if seen is None:
        return xp.softmax(scores, axis=-1) @ v
    # Not -inf: of a row of nothing else softmax makes no numbers, and MindSpore's spoils the other rows as well.
    weights = xp.softmax(scores.masked_fill(~seen, xp.lowest(scores)), axis=-1)
    return weights.masked_fill(~seen, 0.0) @ v


def as_one_rule(q, k, mask, causal: bool):
    """(mask, causal) for torch's kernels: they take one of the two, and align the first query with the first key."""
    if causal and (mask is not None or q.shape[2] != k.shape[2]):
        return visible(q, k, mask, causal), False
    return mask, causal


def sdpa(q, k, v, mask=None, causal=False):
    """torch's own attention, on whichever kernel torch chooses: most often no matrix of scores in memory."""
    mask, causal = as_one_rule(q, k, mask, causal)
    return xp.scaled_dot_product_attention(q, k, v, mask, causal)


def flash(q, k, v, mask=None, causal=False):
    """The fused kernel, and no other: torch's flash kernel, or `flash_attention_score` on Ascend.

    Raises:
        NotAvailable: the kernel cannot take this input (a mask or float32 on CUDA, say); the message says why.
    """
    mask, causal = as_one_rule(q, k, mask, causal)
    return xp.flash_attention(q, k, v, mask, causal)


def tiled(q, k, v, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK):
    """FlashAttention's forward pass: block after block of scores, none kept (Dao et al. 2022; loops as in Dao 2023)."""
    if q.shape[2] == 1:  # a decode step: one row of scores is no matrix to avoid
        return eager(q, k, v, mask, causal)
    return tiled_with_statistics(q, k, v, mask, causal, query_block, key_block)[0]


def tiled_with_statistics(q, k, v, mask, causal: bool, query_block: int, key_block: int):
    """What `tiled` gives, and the logarithm of each row's sum of exponentials: all that a backward pass needs.

    The statistics are (batch, heads, queries, 1) in float32 at least.
    """
    outputs, statistics = [], []
    for rows in blocks(q.shape[2], query_block):
        out, logsum = attend_rows(q, k, v, mask, causal, rows, key_block)
        outputs.append(out)
        statistics.append(logsum)
    return xp.concat(outputs, axis=2), xp.concat(statistics, axis=2)


def attend_rows(q, k, v, mask, causal: bool, rows: tuple[int, int], key_block: int):
    """A block of queries against all keys that they may see, a block at a time: its output and its statistics."""
    wide = xp.widen(q[:, :, rows[0] : rows[1]])
    best = xp.full((*wide.shape[:3], 1), LOWEST, wide)
    total = xp.full((*wide.shape[:3], 1), 0.0, wide)
    out = xp.full((*wide.shape[:3], v.shape[3]), 0.0, wide)
    for columns in blocks(last_key(q, k, causal, rows), key_block):
        scores = block_scores(q, k, mask, causal, rows, columns)
        best, total, out = online_softmax(best, total, out, scores, v[:, :, columns[0] : columns[1]])
    total = xp.where(total == 0, xp.full(total.shape, 1.0, wide), total)  # nothing was seen: zeros, not 0 / 0
    return (out / total).to(v.dtype), best + xp.log(total)


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of each block of `size` places; the last one is what is left."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def last_key(q, k, causal: bool, rows: tuple[int, int]) -> int:
    """How many keys the last of these queries may see by the causal rule: the blocks after it are never computed."""
    return min(k.shape[2], rows[1] + k.shape[2] - q.shape[2]) if causal else k.shape[2]


def block_scores(q, k, mask, causal: bool, rows: tuple[int, int], columns: tuple[int, int]):
    """(batch, heads, rows, columns) scores of a block, in float32 at least; -inf where a query may not see a key."""
    scores = q[:, :, rows[0] : rows[1]] @ k[:, :, columns[0] : columns[1]].swapaxes(-1, -2)
    scores = xp.widen(scores) * scale(q)
    if mask is not None:
        scores = scores.masked_fill(~cut(mask, rows, columns), -math.inf)
    first = rows[0] + k.shape[2] - q.shape[2]  # the place of the block's first query among the keys
    if causal and columns[1] > first + 1:
        later = places(columns[0], columns[1], q)[None, :] > places(first, first + rows[1] - rows[0], q)[:, None]
        scores = scores.masked_fill(later, -math.inf)
    return scores


def online_softmax(best, total, out, scores, values):
    """One more block of scores: the row's largest score, its sum of exponentials and its output, all so far.

    What was summed before stands relative to a smaller largest score, so it is scaled down to the new one.
    """
    new_best = xp.maximum(best, xp.max(scores, axis=-1))
    rescale, weights = xp.exp(best - new_best), xp.exp(scores - new_best)
    total = total * rescale + xp.sum(weights, axis=-1)
    return new_best, total, out * rescale + xp.widen(weights.to(values.dtype) @ values)


def local(q, k, v, mask=None, causal=False, window=WINDOW):
    """A sliding window: each query sees the keys at most `window` places away (Beltagy et al. 2020), in linear cost.

    Another function than full attention, not a faster way to it. Near and far need one line of time for queries and
    keys; where their numbers differ (cross-attention, decode steps) there is none, and each query sees all.
    """
    if q.shape[2] == 1 or q.shape[2] != k.shape[2]:
        return eager(q, k, v, mask, causal)
    outputs = []
    for rows in blocks(q.shape[2], max(window, 64)):
        columns = (max(0, rows[0] - window), min(rows[1] + window, q.shape[2]))
        near = in_window(rows, columns, window, causal, q)
        seen = near if mask is None else near & cut(mask, rows, columns)
        keys, values = k[:, :, columns[0] : columns[1]], v[:, :, columns[0] : columns[1]]
        outputs.append(eager(q[:, :, rows[0] : rows[1]], keys, values, seen))
    return xp.concat(outputs, axis=2)


def in_window(rows: tuple[int, int], columns: tuple[int, int], window: int, causal: bool, like):
    """(rows, columns) bool: the key is at most `window` places away from the query, and not after it if `causal`."""
    ahead = places(columns[0], columns[1], like)[None, :] - places(rows[0], rows[1], like)[:, None]
    return (ahead >= -window) & (ahead <= (0 if causal else window))


def triton(q, k, v, mask=None, causal=False):
    """Our own kernel for CUDA, written in Triton: see `flash_triton`."""
    from labsupport.optim.flash_triton import flash_triton

    return flash_triton(q, k, v, mask=mask, causal=causal)


# --- the switch -------------------------------------------------------------------------------------------------------

MODES = {"eager": eager, "sdpa": sdpa, "tiled": tiled, "flash": flash, "local": local, "triton": triton}
TRANSFORMERS = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}


def get_attention(name: str):
    """The attention function called `name`.

    Raises:
        OptimError: there is none; the message lists those there are.
        NotAvailable: it needs what is not here; the message says what, and what to use instead.
    """
    if name not in MODES:
        raise OptimError(f"There is no attention mode {name!r}.", hint=f"Choose one of {', '.join(MODES)}.")
    if lack := find_lack(name):
        raise NotAvailable(lack, where=name, hint=f"Use one of {', '.join(modes_here())} here.")
    return MODES[name]


def modes_here() -> list[str]:
    """The names of the modes that this process can run."""
    return [name for name in MODES if not find_lack(name)]


def find_lack(name: str) -> str | None:
    """What this process lacks for the mode `name`, as a sentence; None where it can run."""
    if name == "triton":
        return find_triton_lack()
    if xp.name == "torch" or name not in ("sdpa", "flash"):
        return None
    if name == "sdpa":
        return "MindSpore has no scaled_dot_product_attention: that is torch's."
    return None if on_ascend() else "MindSpore's flash_attention_score has a kernel for Ascend NPUs alone."


def find_triton_lack() -> str | None:
    if xp.name != "torch":
        return "Triton's kernels work on torch's tensors."
    if not xp.has_cuda():
        return "Our Triton kernel needs an NVIDIA GPU."
    return None if is_installed("triton") else "Our Triton kernel needs the package triton."


def transformers_name(name: str) -> str:
    """Our mode's name as transformers' `attn_implementation` has it.

    Raises:
        OptimError: there is no such mode, here or in transformers.
    """
    if name not in TRANSFORMERS:
        what = f"transformers has no attention mode like our {name!r}." if name in MODES else f"No mode {name!r}."
        raise OptimError(what, where=name, hint=f"Choose one of {', '.join(TRANSFORMERS)}.")
    return TRANSFORMERS[name]
