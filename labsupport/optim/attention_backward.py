"""FlashAttention's backward pass: the scores that the forward pass did not save are computed again (Dao et al. 2022).

A forward pass alone, as in inference, computes each score once.
"""

from __future__ import annotations

from labsupport.arrays import xp
from labsupport.optim.attention import KEY_BLOCK, QUERY_BLOCK, block_scores, blocks, count_keys, softmax_scale


def tiled_backward(dout, q, k, v, out, lse, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK):
    """The gradients (dq, dk, dv), shaped like q, k and v, for `dout`, that of `out`.

    Args:
        dout, out: (batch, heads, queries, head_dim)
        lse: (batch, heads, queries, 1), from `attention.tiled_with_lse`, with `out`.
        q, k, v, mask, causal, query_block, key_block: as in `attention.tiled`.
    """
    key_blocks = blocks(k.shape[2], key_block)
    dq, dk, dv = [], [0.0] * len(key_blocks), [0.0] * len(key_blocks)
    for rows in blocks(q.shape[2], query_block):
        block_q, block_dout, block_out = (xp.widen(x[:, :, slice(*rows)]) for x in (q, dout, out))
        delta = xp.sum(block_dout * block_out, axis=-1)  # (batch, heads, rows, 1)
        block_dq = block_q * 0.0  # (batch, heads, rows, head_dim)
        for number, columns in enumerate(key_blocks):
            if columns[0] >= count_keys(q, k, causal, rows):
                break
            keys, values = (xp.widen(x[:, :, slice(*columns)]) for x in (k, v))  # (batch, heads, columns, head_dim)
            weights = xp.exp(block_scores(q, k, mask, causal, rows, columns) - lse[:, :, slice(*rows)])
            added = block_gradients(weights, block_dout, delta, block_q, keys, values)
            block_dq, dk[number], dv[number] = block_dq + added[0], dk[number] + added[1], dv[number] + added[2]
        dq.append(block_dq)
    return tuple(xp.concat(parts, axis=2).to(x.dtype) for parts, x in ((dq, q), (dk, k), (dv, v)))


def block_gradients(weights, dout, delta, q, k, v):
    """What one block of weights (batch, heads, rows, columns) adds to the gradients of its queries, keys and values.

    delta: (batch, heads, rows, 1), the sum of `dout` times the output in each row: through it, the softmax's own
    gradient needs no other block.
    """
    dscores = weights * (dout @ v.swapaxes(-1, -2) - delta) * softmax_scale(q)  # (batch, heads, rows, columns)
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout  # (..., head_dim) each
