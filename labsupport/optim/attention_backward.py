"""FlashAttention's backward pass: the scores that the forward pass did not keep are computed again (Dao et al. 2022).

This is the one place of recomputation. A forward pass alone, all that inference is, computes each score once.
"""

from __future__ import annotations

from labsupport.arrays import xp
from labsupport.optim.attention import KEY_BLOCK, QUERY_BLOCK, block_scores, blocks, last_key, scale


def tiled_backward(
    grad, q, k, v, out, statistics, mask=None, causal=False, query_block=QUERY_BLOCK, key_block=KEY_BLOCK
):
    """The gradients of q, k and v, for `grad`, that of `out`.

    Args:
        grad, out: (batch, heads, queries, head_dim)
        statistics: (batch, heads, queries, 1), from `attention.tiled_with_statistics`, with `out`.
        q, k, v, mask, causal, query_block, key_block: as in `attention.tiled`.
    """
    columns_of = blocks(k.shape[2], key_block)
    for_q, for_k, for_v = [], [0.0] * len(columns_of), [0.0] * len(columns_of)
    for rows in blocks(q.shape[2], query_block):
        here, row_for_q = slice(*rows), 0.0
        row_q, row_grad, row_out = (xp.widen(x[:, :, here]) for x in (q, grad, out))
        weighted = xp.sum(row_grad * row_out, axis=-1)
        for number, columns in enumerate(columns_of):
            if columns[0] >= last_key(q, k, causal, rows):
                break
            keys, values = (xp.widen(x[:, :, slice(*columns)]) for x in (k, v))
            weights = xp.exp(block_scores(q, k, mask, causal, rows, columns) - statistics[:, :, here])
            shares = block_gradients(weights, row_grad, weighted, row_q, keys, values)
            row_for_q = row_for_q + shares[0]
            for_k[number] = for_k[number] + shares[1]
            for_v[number] = for_v[number] + shares[2]
        for_q.append(row_for_q + row_q * 0.0)
    return tuple(xp.concat(parts, axis=2).to(x.dtype) for parts, x in ((for_q, q), (for_k, k), (for_v, v)))


def block_gradients(weights, grad, weighted, q, k, v):
    """What one block of weights adds to the gradients of its queries, keys and values.

    weighted: (..., rows, 1), the sum of `grad` times the output in each row: through it, the softmax's own gradient
    needs no other block.
    """
    for_scores = weights * (grad @ v.swapaxes(-1, -2) - weighted) * scale(q)
    return for_scores @ k, for_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ grad
