"""Solutions of 03_attention_modes. They spoil the fun: try first."""

from __future__ import annotations

import itertools

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def add_block(best, total, scores):
    new_best = max(best, scores.max())
    return float(new_best), float(total * np.exp(best - new_best) + np.exp(scores - new_best).sum())


def add_block_one_by_one(best, total, scores):
    for score in scores:
        new_best = max(best, score)
        total = total * np.exp(best - new_best) + np.exp(score - new_best)
        best = new_best
    return float(best), float(total)


def add_block_without_rescaling(best, total, scores):
    new_best = max(best, scores.max())
    return float(new_best), float(total + np.exp(scores - new_best).sum())


def add_block_the_wrong_way_round(best, total, scores):
    new_best = max(best, scores.max())
    return float(new_best), float(total * np.exp(new_best - best) + np.exp(scores - new_best).sum())


def add_block_starting_anew(best, total, scores):
    new_best = scores.max()
    return float(new_best), float(np.exp(scores - new_best).sum())


def add_block_against_the_old_best(best, total, scores):
    return float(max(best, scores.max())), float(total + np.exp(scores - best).sum())


def seen_in_window(query, length, window):
    return max(0, query - window), min(length, query + window + 1)


def seen_by_looking_at_each(query, length, window):
    seen = [key for key in range(length) if abs(key - query) <= window]
    return seen[0], seen[-1] + 1


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
        hint="First the new maximum; then bring the old total down to it, and add the block's own exponentials.",
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
                "The old total was added up relative to the old maximum: scale it by exp(best - new_best).",
            ),
            Mistake(
                add_block_the_wrong_way_round,
                "The factor must make the old total smaller: exp(best - new_best), not the other way round.",
            ),
            Mistake(
                add_block_starting_anew,
                "That is the softmax of this block alone: what came before counts, too.",
            ),
            Mistake(
                add_block_against_the_old_best,
                "Both sums must stand relative to the same, new maximum; exp(score - old best) may overflow.",
            ),
        ],
    ),
    Exercise(
        id="3.2",
        title="What a sliding window sees",
        hint="From query - window to query + window, both seen, cut off at the ends of the sequence.",
        solution=seen_in_window,
        variant=seen_by_looking_at_each,
        cases=[(5, 20, 3), (1, 20, 3), (18, 20, 3), (0, 2, 5), (7, 20, 0)],
        mistakes=[
            Mistake(
                lambda query, length, window: (max(0, query - window), min(length, query + window)),
                "The key `window` places ahead is still seen, and the second number is the first key after it.",
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
                "That window looks back only, as in a decoder; the encoder's looks ahead as well.",
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
                "The total belongs at the end: it says where the last clip stops.",
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
                "Each head compares on its own, and has its own scores.",
            ),
            Mistake(
                lambda heads, queries, keys, itemsize, tile: scores_alive(heads, queries, keys, 1, tile),
                "That is the number of scores; each takes `itemsize` bytes.",
            ),
        ],
    ),
]
