"""Padding taken out and put back: sequences of unequal length packed one after another, so that none is computed.

Names and meanings are those of flash-attn's `bert_padding` and of transformers' `modeling_flash_attention_utils`.
"Packed" is (total, ...): the real tokens of all sequences, in order. `cu_seqlens`, (batch + 1,) int32, says where each
sequence starts; its last entry is `total`.
"""

from __future__ import annotations

import itertools

import numpy as np

from labsupport.arrays import xp
from labsupport.machine.backend import on_ascend
from labsupport.optim.attention import eager, flash


def index_first_axis(x, indices):
    """(rows, ...), (total,) int64 -> (total, ...): these rows."""
    return xp.take(x, indices)


def index_put_first_axis(values, indices, first_axis_dim: int):
    """(total, ...), (total,) int64 -> (first_axis_dim, ...): the values at these rows, zeros elsewhere."""
    return xp.put(xp.full((first_axis_dim, *values.shape[1:]), 0.0, values), indices, values)


def get_unpad_data(attention_mask):
    """Indices (total,) int64 of the real tokens in the flattened batch, cu_seqlens, and the longest sequence's length.

    attention_mask: (batch, length) bool or int, true or 1 for a real token, wherever in the row.
    """
    real = xp.to_numpy(attention_mask).astype(bool)  # (batch, length)
    lengths = real.sum(axis=1)  # (batch,)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    indices = np.flatnonzero(real)  # (total,)
    return xp.asarray(indices, attention_mask), xp.asarray(cu_seqlens, attention_mask), int(lengths.max())


def unpad_input(hidden_states, attention_mask):
    """(batch, length, ...) -> packed (total, ...), and then what `get_unpad_data` gives."""
    indices, cu_seqlens, max_seqlen = get_unpad_data(attention_mask)
    flat = hidden_states.reshape((-1, *hidden_states.shape[2:]))  # (batch * length, ...)
    return index_first_axis(flat, indices), indices, cu_seqlens, max_seqlen


def pad_input(hidden_states, indices, batch: int, seqlen: int):
    """Packed (total, ...) -> (batch, seqlen, ...), zeros where there was padding."""
    flat = index_put_first_axis(hidden_states, indices, batch * seqlen)  # (batch * seqlen, ...)
    return flat.reshape((batch, seqlen, *hidden_states.shape[1:]))  # (batch, seqlen, ...)


def varlen_attention(q, k, v, cu_seqlens, causal=False, attention=eager):
    """Each sequence of a packed batch attends to itself alone, without padding or mask; all (total, heads, head_dim).

    attention: the mode that computes each sequence. With `attention.flash` on Ascend the kernel takes them all in one
    call (layout TND); elsewhere there is one call for each.
    """
    bounds = xp.to_numpy(cu_seqlens).tolist()
    if attention is flash and on_ascend():
        from labsupport.arrays.on_mindspore import flash_packed

        return flash_packed(q, k, v, bounds[1:], causal)
    heads_first = [x.swapaxes(0, 1)[None] for x in (q, k, v)]  # (1, heads, total, head_dim)
    parts = [
        attention(*(x[:, :, start:stop] for x in heads_first), causal=causal)
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]
    return xp.concat(parts, axis=2)[0].swapaxes(0, 1)  # (total, heads, head_dim)
