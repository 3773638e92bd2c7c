"""Solutions of the exercises in 03_attention_modes."""

from __future__ import annotations

import itertools

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def add_block(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    return float(new_max), float(row_sum * np.exp(row_max - new_max) + np.exp(scores - new_max).sum())


def add_block_one_by_one(row_max, row_sum, scores):
    for score in scores:
        new_max = max(row_max, score)
        row_sum = row_sum * np.exp(row_max - new_max) + np.exp(score - new_max)
        row_max = new_max
    return float(row_max), float(row_sum)


def add_block_without_rescaling(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    return float(new_max), float(row_sum + np.exp(scores - new_max).sum())


def add_block_the_wrong_way_round(row_max, row_sum, scores):
    new_max = max(row_max, scores.max())
    return float(new_max), float(row_sum * np.exp(new_max - row_max) + np.exp(scores - new_max).sum())


def add_block_starting_anew(row_max, row_sum, scores):
    new_max = scores.max()
    return float(new_max), float(np.exp(scores - new_max).sum())


def add_block_against_the_old_max(row_max, row_sum, scores):
    return float(max(row_max, scores.max())), float(row_sum + np.exp(scores - row_max).sum())


def window_bounds(query, length, window):
    return max(0, query - window), min(length, query + window + 1)


def window_bounds_by_distance(query, length, window):
    inside = [key for key in range(length) if abs(key - query) <= window]
    return inside[0], inside[-1] + 1


def cumulative_lengths(lengths):
    return [0, *itertools.accumulate(lengths)]


def cumulative_lengths_by_numpy(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(int).tolist()


def scores_alive(heads, queries, keys, itemsize, tile):
    rows, columns = tile or (queries, keys)
    return heads * min(rows, queries) * min(columns, keys) * itemsize


def scores_alive_by_cases(heads, queries, keys, itemsize, tile):
    if tile is None:
        return itemsize * queries * keys * heads
    return itemsize * heads * sorted((tile[0], queries))[0] * sorted((tile[1], keys))[0]


EXERCISES = [
    Exercise(
        id="3.1",
        title="One block of an online softmax",
        hint="First the new maximum; then scale the old sum down to it, and add the block's own exponentials.",
        solution=add_block,
        variant=add_block_one_by_one,
        cases=[
            (0.0, 1.0, np.array([1.0, 2.0, 0.5])),
            (3.0, 2.5, np.array([1.0, -2.0])),
            (-1.0, 4.0, np.array([5.0])),
        ],
        mistakes=[
            Mistake(
                add_block_without_rescaling,
                "The old sum is relative to the old maximum: scale it by exp(row_max - new maximum).",
            ),
            Mistake(
                add_block_the_wrong_way_round,
                "The factor must make the old sum smaller: exp(row_max - new maximum), not the other way round.",
            ),
            Mistake(
                add_block_starting_anew,
                "That is the sum of this block alone: the blocks before it count, too.",
            ),
            Mistake(
                add_block_against_the_old_max,
                "Both sums must be relative to the same, new maximum; exp(score - row_max) may overflow.",
            ),
        ],
    ),
    Exercise(
        id="3.2",
        title="The keys in a sliding window",
        hint="From query - window to query + window, both included, cut off at the ends of the sequence.",
        solution=window_bounds,
        variant=window_bounds_by_distance,
        cases=[(5, 20, 3), (1, 20, 3), (18, 20, 3), (0, 2, 5), (7, 20, 0)],
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
        ],
    ),
    Exercise(
        id="3.3",
        title="cu_seqlens",
        hint="Clips of 3, 1 and 2 frames begin at 0, 3 and 4, and the total is 6: [0, 3, 4, 6].",
        solution=cumulative_lengths,
        variant=cumulative_lengths_by_numpy,
        cases=[([3, 1, 2],), ([550, 300, 150, 100],), ([5],), ([2, 0, 4],)],
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
        ],
    ),
    Exercise(
        id="3.4",
        title="Scores alive at once",
        hint="Each head has its own scores: heads x rows x columns x itemsize, of the matrix or of one block.",
        solution=scores_alive,
        variant=scores_alive_by_cases,
        cases=[
            (20, 1500, 1500, 4, None),
            (6, 1500, 1500, 2, (256, 512)),
            (8, 1, 1500, 4, (256, 512)),
            (8, 100, 300, 4, (256, 512)),
        ],
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
        ],
    ),
]
