"""Solutions of 03_attention_modes. They spoil the fun: try first."""

from __future__ import annotations

import functools
import itertools
import math
from unittest import mock

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 3.1 --------------------------------------------------------------------------------------------------------------


def add_block(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    return new_max, row_sum * np.exp(row_max - new_max) + np.exp(scores - new_max).sum()


def add_block_score_by_score(row_max, row_sum, scores):
    for score in scores.tolist():
        new_max = max(row_max, score)
        row_sum = row_sum * math.exp(row_max - new_max) + math.exp(score - new_max)
        row_max = new_max
    return row_max, row_sum


def add_block_by_logarithms(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    before = row_max + np.log(row_sum) if row_sum else -np.inf
    return [new_max, np.exp(np.logaddexp.reduce([before, *scores]) - new_max)]


def add_block_with_one_more_score(row_max, row_sum, scores):
    largest = np.append(scores, row_max).max()
    counts = np.append(np.ones(len(scores)), row_sum)  # the sum so far is so many scores as large as row_max
    return np.array([largest, counts @ np.exp(np.append(scores, row_max) - largest)])


def add_block_in_place(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    scores -= new_max
    return new_max, row_sum * np.exp(row_max - new_max) + np.exp(scores).sum()


def draw_block(rng):
    """Scores around -800, 0 or 800, where exp overflows or vanishes unless the largest score is subtracted."""
    scores = rng.choice([-800.0, 0.0, 800.0]) + rng.standard_normal(rng.integers(1, 30))
    if rng.integers(4) == 0:
        return -1e30, 0.0, scores  # no block before
    return float(scores.mean() + 2 * rng.standard_normal()), float(rng.uniform(1, 9)), scores


# --- 3.2 --------------------------------------------------------------------------------------------------------------


def window_bounds(query, length, window):
    return max(0, query - window), min(length, query + window + 1)


def window_bounds_by_distance(query, length, window):
    inside = [key for key in range(length) if abs(key - query) <= window]
    return inside[0], inside[-1] + 1


def window_bounds_by_clipping(query, length, window):
    return np.clip([query - window, query + window + 1], 0, length)


def window_bounds_by_slicing(query, length, window):
    before, after = range(length)[:query][-window:] if window else (), range(length)[query : query + window + 1]
    return [before[0] if before else query, after[-1] + 1]


def draw_query(rng):
    length = int(rng.integers(1, 40))
    return int(rng.integers(length)), length, int(rng.integers(0, 25))


def run_with_window_bounds(answer):
    """tiny.en's encoder with a mask of the learner's windows, against labsupport's local attention."""
    from labsupport.arrays import xp
    from labsupport.course import trials
    from labsupport.optim.attention import WINDOW, eager

    frames = trials.log_mel().shape[2] // 2
    band = np.zeros((frames, frames), bool)
    for query in range(frames):
        first, after = answer(query, frames, WINDOW)
        band[query, int(first) : int(after)] = True
    found = trials.find_tokens_with_encoder(
        attention=lambda q, k, v, mask=None, causal=False: eager(q, k, v, xp.asarray(band, q))
    )
    if found != local_tokens():
        raise Wrong("the text is not that of local attention with the same window.")
    share = 100 * band.mean()
    return f"All {len(found)} tokens are those of local attention; {share:.0f} % of the scores are left."


@functools.cache
def local_tokens():
    from labsupport.course import trials
    from labsupport.optim.attention import local

    return trials.find_tokens_with_encoder(attention=local)


# --- 3.3 --------------------------------------------------------------------------------------------------------------


def cumulative_lengths(lengths):
    return [0, *itertools.accumulate(lengths)]


def cumulative_lengths_by_numpy(lengths):
    return np.cumsum([0, *lengths])


def cumulative_lengths_by_adding(lengths):
    places = [0]
    for length in lengths:
        places.append(places[-1] + length)
    return tuple(places)


def cumulative_lengths_by_slices(lengths):
    return [sum(lengths[:clip]) for clip in range(len(lengths) + 1)]


def cumulative_lengths_in_place(lengths):
    lengths.insert(0, 0)
    return list(itertools.accumulate(lengths))


def draw_lengths(rng):
    return (rng.integers(0, 9, rng.integers(1, 7)).tolist(),)


def run_with_cumulative_lengths(answer):
    """tiny.en's encoder on two clips in one row of frames, 600 and 1500; the second one's text must stay."""
    from labsupport.arrays import xp
    from labsupport.course import trials
    from labsupport.optim.padding import varlen_attention

    short, whole = 600, trials.log_mel().shape[2] // 2
    cu_seqlens = np.asarray(answer([short, whole]), np.int32)

    def pack(x):
        return xp.concat([x[:, :short], x], axis=1)  # (1, short + whole, d_model)

    def packed(q, k, v, mask=None, causal=False):
        tokens = [x[0].swapaxes(0, 1) for x in (q, k, v)]  # (short + whole, heads, head_dim)
        return varlen_attention(*tokens, xp.asarray(cu_seqlens, q)).swapaxes(0, 1)[None]

    found = trials.find_tokens_with_encoder(
        attention=packed, run=lambda layers: [pack, *layers, lambda x: x[:, short:]]
    )
    rectangle, scores = 2 * whole**2, short**2 + whole**2
    said = trials.check_tokens(found)
    return f"{said} Beside a clip of {short} frames, {100 * (1 - scores / rectangle):.0f} % of the scores are saved."


# --- 3.4 --------------------------------------------------------------------------------------------------------------


def scores_alive(heads, queries, keys, itemsize, tile):
    rows, columns = tile or (queries, keys)
    return heads * min(rows, queries) * min(columns, keys) * itemsize


def scores_alive_by_cases(heads, queries, keys, itemsize, tile):
    if tile is None:
        return itemsize * queries * keys * heads
    return itemsize * heads * sorted((tile[0], queries))[0] * sorted((tile[1], keys))[0]


def scores_alive_of_an_array(heads, queries, keys, itemsize, tile):
    rows, columns = (slice(None), slice(None)) if tile is None else (slice(tile[0]), slice(tile[1]))
    all_scores = np.broadcast_to(np.zeros((), f"V{itemsize}"), (heads, queries, keys))
    return all_scores[:, rows, columns].nbytes


def scores_alive_by_numpy(heads, queries, keys, itemsize, tile):
    shape = np.array([queries, keys])
    return np.prod(np.minimum(shape, shape if tile is None else tile)) * heads * itemsize


def draw_tile(rng):
    heads, queries, keys = rng.integers(1, [21, 1501, 1501]).tolist()
    tile = None if rng.integers(3) == 0 else tuple(rng.integers(1, 1200, 2).tolist())
    return heads, 1 if rng.integers(5) == 0 else queries, keys, int(rng.choice([2, 4])), tile


def run_with_scores_alive(answer):
    """tiny.en's encoder in tiles; every block of scores that it makes is measured."""
    from labsupport.course import trials
    from labsupport.optim import attention

    counted, block_scores = [], attention.block_scores
    for tile in ((256, 512), (700, 399)):
        made = []

        def measured(q, k, *block, made=made):
            scores = block_scores(q, k, *block)
            made.append((scores.nbytes, q.shape[1], q.shape[2], k.shape[2], scores.itemsize))
            return scores

        in_tiles = functools.partial(attention.tiled, query_block=tile[0], key_block=tile[1])
        with mock.patch.object(attention, "block_scores", measured):
            trials.find_tokens_with_encoder(attention=in_tiles)
        largest, *shape = max(made)
        if answer(*shape, tile) != largest:
            raise Wrong(f"with tiles of {tile}, the largest block of scores takes {largest:,} bytes.")
        counted.append(f"{largest / 1e6:.2f} MB with tiles of {tile[0]} x {tile[1]}")
    return f"The largest block of scores in the running encoder: {' and '.join(counted)}."


# --- 3.5 --------------------------------------------------------------------------------------------------------------


def merge(out_a, lse_a, out_b, lse_b):
    lse = np.logaddexp(lse_a, lse_b)  # (..., queries, 1)
    return out_a * np.exp(lse_a - lse) + out_b * np.exp(lse_b - lse), lse


def merge_by_the_larger(out_a, lse_a, out_b, lse_b):
    larger = np.maximum(lse_a, lse_b)
    weight_a, weight_b = np.exp(lse_a - larger), np.exp(lse_b - larger)
    both = weight_a + weight_b
    return [(out_a * weight_a + out_b * weight_b) / both, larger + np.log(both)]


def merge_by_a_sigmoid(out_a, lse_a, out_b, lse_b):
    share = 1 / (1 + np.exp(np.clip(lse_b - lse_a, -700, 700)))  # of part a
    return out_b + share * (out_a - out_b), np.logaddexp(lse_a, lse_b)


def merge_with_torch(out_a, lse_a, out_b, lse_b):
    import torch

    lses = torch.stack([torch.from_numpy(lse_a), torch.from_numpy(lse_b)])
    outs = torch.stack([torch.from_numpy(out_a), torch.from_numpy(out_b)])
    return (lses.softmax(0) * outs).sum(0), lses.logsumexp(0)


def merge_in_place(out_a, lse_a, out_b, lse_b):
    lse = np.logaddexp(lse_a, lse_b)
    out_a *= np.exp(lse_a - lse)
    out_a += out_b * np.exp(lse_b - lse)
    return out_a, lse


def draw_parts(rng):
    """Log-sum-exps around -800, 0 or 800, so that exp alone overflows or vanishes."""
    shape, centre = rng.integers(1, [3, 3, 6]), rng.choice([-800.0, 0.0, 800.0])
    head_dim = rng.integers(1, 4)
    outs = rng.standard_normal((2, *shape, head_dim))
    lses = centre + rng.standard_normal((2, *shape, 1))
    return outs[0], lses[0], outs[1], lses[1]


def run_with_merge(answer):
    """tiny.en's encoder, whose keys are attended to in three parts of unequal length."""
    from labsupport.arrays import xp
    from labsupport.course import trials
    from labsupport.optim.attention import tiled_with_lse

    def attend_in_parts(q, k, v, mask=None, causal=False):
        parts = []
        for start, stop in itertools.pairwise((0, 300, 800, k.shape[2])):
            part = tiled_with_lse(q, k[:, :, start:stop], v[:, :, start:stop], mask, causal, q.shape[2], stop - start)
            parts.append([xp.to_numpy(each) for each in part])
        out, lse = parts[0]
        for part in parts[1:]:
            out, lse = map(np.asarray, answer(out, lse, *part))
        return xp.asarray(out.astype(np.float32), q)

    said = trials.check_tokens(trials.find_tokens_with_encoder(attention=attend_in_parts))
    return f"{said} No part saw more than half of the keys."


EXERCISES = [
    Exercise(
        id="3.1",
        title="One block of an online softmax",
        hints=(
            "Two numbers describe all scores so far. Which of them can a larger score in the new block spoil, and how?",
            "The sum so far counts in units of exp(old maximum); the new one must count in units of exp(new maximum).",
            "Find the new maximum first. A factor of at most 1 brings the old sum to it; the block's own follow.",
        ),
        solution=add_block,
        variants=[add_block_score_by_score, add_block_by_logarithms, add_block_with_one_more_score],
        draw=draw_block,
        edges=[
            (0.0, 1.0, np.array([1.0, 2.0, 0.5])),
            (3.0, 2.5, np.array([1.0, -2.0])),
            (-1.0, 4.0, np.array([5.0])),
            (-1e30, 0.0, np.array([2.0, 2.0])),
        ],
        rtol=1e-4,
        mistakes=[
            Mistake(
                lambda row_max, row_sum, scores: (
                    max(row_max, scores.max()),
                    row_sum + np.exp(scores - max(row_max, scores.max())).sum(),
                ),
                "The old sum is relative to the old maximum: it must be scaled down to the new one.",
            ),
            Mistake(
                lambda row_max, row_sum, scores: (
                    max(row_max, scores.max()),
                    row_sum * np.exp(min(max(row_max, scores.max()) - row_max, 700))
                    + np.exp(scores - max(row_max, scores.max())).sum(),
                ),
                "A larger maximum makes the old sum smaller; this factor makes it larger.",
            ),
            Mistake(
                lambda row_max, row_sum, scores: (scores.max(), np.exp(scores - scores.max()).sum()),
                "That is the sum of this block alone: the blocks before it count, too.",
            ),
            Mistake(
                lambda row_max, row_sum, scores: (
                    max(row_max, scores.max()),
                    row_sum + np.exp(np.minimum(scores - row_max, 700)).sum(),
                ),
                "Both sums must be relative to the same, new maximum; relative to the old one, exp may overflow.",
            ),
            Mistake(
                lambda row_max, row_sum, scores: (
                    scores.max(),
                    row_sum * np.exp(min(row_max - scores.max(), 700)) + np.exp(scores - scores.max()).sum(),
                ),
                "The largest score so far may have come before this block.",
            ),
            Mistake(
                lambda row_max, row_sum, scores: (
                    max(row_max, scores.max()),
                    np.log(row_sum * np.exp(row_max) + np.exp(scores).sum()),
                ),
                "exp of the scores themselves overflows, or vanishes: subtract the largest before.",
            ),
            Mistake(add_block_in_place, "Other blocks and heads may read these scores as well: work on a copy."),
        ],
    ),
    Exercise(
        id="3.2",
        title="The keys in a sliding window, in the model",
        hints=(
            "How far does the window reach to the left and to the right? What stops it at the ends?",
            "Both neighbours at distance `window` are inside; the second number is one past the last key.",
            "Without ends, 2 * window + 1 keys are inside. Neither number may leave the sequence.",
        ),
        solution=window_bounds,
        variants=[window_bounds_by_distance, window_bounds_by_clipping, window_bounds_by_slicing],
        draw=draw_query,
        edges=[(5, 20, 3), (1, 20, 3), (18, 20, 3), (0, 2, 5), (7, 20, 0), (0, 1, 0)],
        draws=40,
        trial=run_with_window_bounds,
        mistakes=[
            Mistake(
                lambda query, length, window: (max(0, query - window), min(length, query + window)),
                "The key `window` positions ahead is still inside, and the second number is the first key after it.",
            ),
            Mistake(
                lambda query, length, window: (query - window, query + window + 1),
                "A sequence has two ends: no key comes before 0, none after length - 1.",
            ),
            Mistake(
                lambda query, length, window: (max(0, query - window // 2), min(length, query + window // 2 + 1)),
                "`window` counts to one side, not both together.",
            ),
            Mistake(
                lambda query, length, window: (max(0, query - window), query + 1),
                "That window ends at the query, as in a decoder; the encoder's holds the keys after it as well.",
            ),
            Mistake(
                lambda query, length, window: (max(0, query - window), min(length - 1, query + window + 1)),
                "At the end of the sequence, the first key after the window is `length`: the last key is inside.",
            ),
            Mistake(
                lambda query, length, window: (max(0, query - window), min(length - 1, query + window)),
                "That is the last key inside; the first one after it is asked for.",
            ),
            Mistake(
                lambda query, length, window: (query // (window + 1) * (window + 1), min(length, query + window + 1)),
                "The window slides: it stands around each query, not on a grid of blocks.",
            ),
        ],
    ),
    Exercise(
        id="3.3",
        title="cu_seqlens, in the model",
        hints=(
            "Where does the first clip begin? Where does each one after it?",
            "A clip begins where the one before it ends: at the sum of all lengths before it.",
            "There is one number more than there are clips: begin with 0, and end with the sum of all.",
        ),
        solution=cumulative_lengths,
        variants=[cumulative_lengths_by_numpy, cumulative_lengths_by_adding, cumulative_lengths_by_slices],
        draw=draw_lengths,
        edges=[([3, 1, 2],), ([5],), ([2, 0, 4],), ([0, 3],)],
        trial=run_with_cumulative_lengths,
        mistakes=[
            Mistake(
                lambda lengths: list(itertools.accumulate(lengths)),
                "The first clip begins at 0: the list has one entry more than there are clips.",
            ),
            Mistake(
                lambda lengths: [0, *itertools.accumulate(lengths)][:-1],
                "The total belongs at the end: it is where the last clip stops.",
            ),
            Mistake(
                lambda lengths: [i * max(lengths) for i in range(len(lengths) + 1)],
                "That is where the clips begin in the padded rectangle.",
            ),
            Mistake(
                lambda lengths: [0, *lengths],
                "These are the lengths themselves: add them up.",
            ),
            Mistake(
                lambda lengths: [0, *itertools.accumulate(length for length in lengths if length)],
                "A clip without frames has its entry as well: it begins and ends at the same place.",
            ),
            Mistake(
                lambda lengths: [0, *itertools.accumulate(sorted(lengths, reverse=True))],
                "The clips stay in their order, whatever their lengths.",
            ),
            Mistake(cumulative_lengths_in_place, "The list of lengths belongs to the caller: make a new one."),
        ],
    ),
    Exercise(
        id="3.4",
        title="Scores alive at once, in the model",
        hints=(
            "How many rows and columns of scores exist at the same time, in eager and in tiles? In how many heads?",
            "In tiles, one block exists in each head; a block may be cut off by the sequence's end.",
            "Each side of the block is the smaller one of tile and sequence. Then heads, and bytes for each number.",
        ),
        solution=scores_alive,
        variants=[scores_alive_by_cases, scores_alive_of_an_array, scores_alive_by_numpy],
        draw=draw_tile,
        edges=[
            (20, 1500, 1500, 4, None),
            (6, 1500, 1500, 2, (256, 512)),
            (8, 1, 1500, 4, (256, 512)),
            (8, 100, 300, 4, (256, 512)),
        ],
        draws=40,
        trial=run_with_scores_alive,
        mistakes=[
            Mistake(
                lambda heads, queries, keys, itemsize, tile: heads * queries * keys * itemsize,
                "With tiles only one block of scores exists at a time.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: (
                    heads * itemsize * (queries * keys if tile is None else tile[0] * tile[1])
                ),
                "A decode step has one query: its block has one row, however large blocks may be.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(1, queries, keys, itemsize, tile),
                "Each head has scores of its own.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(heads, queries, keys, 1, tile),
                "That is the number of scores; each takes `itemsize` bytes.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(
                    heads, queries, keys, itemsize, tile and (256, 512)
                ),
                "The blocks' sides are in `tile`; they need not be those of this page.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(
                    heads, queries, keys, itemsize, tile and tile[::-1]
                ),
                "A tile is (query block, key block): rows first.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(
                    heads, queries, keys, itemsize, tile and (min(tile), min(tile))
                ),
                "A block need not be a square: its two sides are independent.",
            ),
        ],
    ),
    Exercise(
        id="3.5",
        title="Two parts of the keys, in the model",
        hints=(
            "Each part is a correct answer to a smaller question. How much of all the weight has each of them?",
            "A log-sum-exp is the logarithm of a part's sum of exponentials. Sums add up; outputs are averaged.",
            "NumPy has a function for log(exp(a) + exp(b)). A part's share is exp of its lse minus that.",
        ),
        solution=merge,
        variants=[merge_by_the_larger, merge_by_a_sigmoid, merge_with_torch],
        draw=draw_parts,
        rtol=1e-4,
        trial=run_with_merge,
        mistakes=[
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: ((out_a + out_b) / 2, np.logaddexp(lse_a, lse_b)),
                "The parts do not count alike: one may hold nearly all of the weight.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: (out_a + out_b, np.logaddexp(lse_a, lse_b)),
                "Each output is already divided by its own sum: added up, the weights would make 2.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: (merge(out_a, lse_a, out_b, lse_b)[0], np.maximum(lse_a, lse_b)),
                "The log-sum-exp of all keys is larger than that of either part.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: (merge(out_a, lse_a, out_b, lse_b)[0], lse_a + lse_b),
                "To add two logarithms is to multiply; the sums of exponentials are added.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: merge(out_a, lse_b, out_b, lse_a),
                "The shares are exchanged: each output has the weight of the other.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: (
                    (out_a * np.exp(lse_a) + out_b * np.exp(lse_b)) / (np.exp(lse_a) + np.exp(lse_b)),
                    np.log(np.exp(lse_a) + np.exp(lse_b)),
                ),
                "exp of a log-sum-exp overflows, or vanishes: subtract one of them, or their sum, before.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: (
                    (out_a * lse_a + out_b * lse_b) / (lse_a + lse_b),
                    np.logaddexp(lse_a, lse_b),
                ),
                "The shares are those of the sums, not of their logarithms.",
            ),
            Mistake(
                lambda out_a, lse_a, out_b, lse_b: merge(out_a, lse_a[:1, :1], out_b, lse_b[:1, :1]),
                "Every window and head has its own sums: these are those of the first alone.",
            ),
            Mistake(merge_in_place, "Give a new output: the parts belong to the caller."),
        ],
    ),
]
