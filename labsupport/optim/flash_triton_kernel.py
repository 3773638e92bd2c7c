"""FlashAttention-2's forward pass as a Triton kernel, for `flash_triton`, which checks what comes in.

One program computes one block of queries of one head: it loops over the blocks of keys and holds, for each query, the
largest score so far, the sum of the exponentials relative to it, and the output relative to it (Dao 2023, algorithm 1).
The scores never leave the chip.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

INTERPRETED = triton.knobs.runtime.interpret  # TRITON_INTERPRET=1: the kernel runs in NumPy, on CPU tensors
# (queries, keys) in a block, warps, stages of the pipeline that loads keys and values. The large ones are for Hopper
# and Ampere; a GPU whose shared memory is too small for one is left to the others by the tuner.
LARGE = [(128, 128, 8, 2), (128, 128, 8, 3), (128, 64, 8, 3), (128, 64, 4, 3), (128, 64, 4, 2), (128, 32, 4, 3)]
SMALL = [(64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 2)]
FEW_QUERIES = [(16, 64, 4, 2), (16, 128, 4, 2)]  # decode steps; a matrix product on tensor cores takes 16 rows at least


@triton.jit
def attend_keys(
    out, row_sum, row_max, q, k_block, v_block, k_step, v_step, first, start, stop, keys, scale,
    CAUSAL: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One block of queries over the keys start .. stop; EDGE: not every query attends to every key there.

    q: (QUERIES, DIM); out: (QUERIES, DIM), row_sum, row_max: (QUERIES,), all three float32. first: the position of the
    block's first query among the keys. scale: to base-2 exponents.
    """
    rows, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    for block in range(start, stop, KEYS):
        offset = tl.cast(block, tl.int64)
        if EDGE:
            inside = block + columns < keys
            k = tl.load(k_block + offset * k_step, mask=inside[None, :], other=0.0)  # (DIM, KEYS)
            v = tl.load(v_block + offset * v_step, mask=inside[:, None], other=0.0)  # (KEYS, DIM)
        else:
            k = tl.load(k_block + offset * k_step)
            v = tl.load(v_block + offset * v_step)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale  # (QUERIES, KEYS)
        if EDGE:
            visible = inside[None, :]
            if CAUSAL:
                visible = visible & (block + columns[None, :] <= first + rows[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))  # (QUERIES,)
        if EDGE:
            new_max = tl.where(new_max == float("-inf"), 0.0, new_max)  # no key so far: -inf - -inf is no number
        weights = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(weights, 1)  # (QUERIES,)
        out = tl.dot(weights.to(v.dtype), v, out * rescale[:, None], input_precision=PRECISION)  # (QUERIES, DIM)
        row_max = new_max
    return out, row_sum, row_max


def flash_forward(
    q, k, v, o,
    q_batch, q_head, q_step, q_dim, k_batch, k_head, k_step, k_dim, v_batch, v_head, v_step, v_dim,
    o_batch, o_head, o_step, o_dim,
    heads, queries, keys, scale, QUERY_BUCKET, KEY_BUCKET,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """softmax(q k^T * scale) v for one block of queries of one head; X_batch, X_head ...: strides in elements."""
    blocks = tl.cdiv(queries, QUERIES)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest rows first, so that no processor is left with one at the end
    batch, head = head // heads, head % heads
    rows, columns, dims = block * QUERIES + tl.arange(0, QUERIES), tl.arange(0, KEYS), tl.arange(0, DIM)
    inside = (rows < queries)[:, None]
    q_block = q + batch * q_batch + head * q_head + rows.to(tl.int64)[:, None] * q_step + dims[None, :] * q_dim
    k_block = k + batch * k_batch + head * k_head + columns[None, :] * k_step + dims[:, None] * k_dim
    v_block = v + batch * v_batch + head * v_head + columns[:, None] * v_step + dims[None, :] * v_dim
    o_block = o + batch * o_batch + head * o_head + rows.to(tl.int64)[:, None] * o_step + dims[None, :] * o_dim

    q_tile = tl.load(q_block, mask=inside, other=0.0)  # (QUERIES, DIM)
    row_max = tl.full([QUERIES], float("-inf"), tl.float32)
    row_sum = tl.zeros([QUERIES], tl.float32)
    out = tl.zeros([QUERIES, DIM], tl.float32)
    first = block * QUERIES + keys - queries
    last = keys
    full = keys // KEYS * KEYS
    if CAUSAL:
        last = tl.maximum(0, tl.minimum(keys, first + QUERIES))
        full = tl.minimum(full, tl.maximum(0, first + 1) // KEYS * KEYS)
    out, row_sum, row_max = attend_keys(
        out, row_sum, row_max, q_tile, k_block, v_block, k_step, v_step, first, 0, full, keys, scale,
        CAUSAL, False, PRECISION, QUERIES, KEYS,
    )  # fmt: skip
    out, row_sum, row_max = attend_keys(
        out, row_sum, row_max, q_tile, k_block, v_block, k_step, v_step, first, full, last, keys, scale,
        CAUSAL, True, PRECISION, QUERIES, KEYS,
    )  # fmt: skip
    out = out / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]  # a query without any key gets zeros
    tl.store(o_block, out.to(o.dtype.element_ty), mask=inside)


def prune_configs(configs: list, arguments: dict, **_) -> list:
    """The configurations worth trying: few queries waste a large block, many are too many for a small one."""
    few = arguments["QUERY_BUCKET"] <= 16
    return [config for config in configs if (config.kwargs["QUERIES"] == 16) == few]


def make_configs(shapes: list[tuple[int, int, int, int]]) -> list[triton.Config]:
    """What the tuner tries: (queries, keys) in a block, warps, stages."""
    return [triton.Config({"QUERIES": m, "KEYS": n}, num_warps=w, num_stages=s) for m, n, w, s in shapes]


tuned = triton.autotune(
    make_configs(SMALL[:1] if INTERPRETED else LARGE + SMALL + FEW_QUERIES),  # the interpreter has no clock to ask
    key=["QUERY_BUCKET", "KEY_BUCKET", "DIM", "CAUSAL"],
    prune_configs_by=None if INTERPRETED else {"early_config_prune": prune_configs},
)(triton.jit(flash_forward, do_not_specialize=["queries", "keys", "QUERY_BUCKET", "KEY_BUCKET"]))


def launch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Runs the kernel; the first call for a kind of shape tries the configurations and takes the fastest."""
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    o = torch.empty((batch, heads, queries, dim), dtype=q.dtype, device=q.device)
    tuned[lambda chosen: (triton.cdiv(queries, chosen["QUERIES"]) * batch * heads,)](
        q, k, v, o, *q.stride(), *k.stride(), *v.stride(), *o.stride(),
        heads, queries, keys, math.log2(math.e) / math.sqrt(dim),
        triton.next_power_of_2(queries), triton.next_power_of_2(keys),
        CAUSAL=causal, PRECISION=precision(q), DIM=dim,
    )  # fmt: skip
    return o


def precision(q: torch.Tensor) -> str:
    """float32's products in three tf32 ones on tensor cores, to nearly full precision; as they are where none can."""
    return "tf32x3" if INTERPRETED or torch.cuda.get_device_capability(q.device) >= (8, 0) else "ieee"
