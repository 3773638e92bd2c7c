"""Solutions of the exercises in 14_bark."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

RATE = Fraction(499, 10)  # semantic tokens a second


def sizes(tokens):
    frames = int(tokens * 75 / 49.9)
    return 2 * frames, 8 * frames, 320 * frames


def sizes_by_fractions(tokens):
    frames = math.floor(Fraction(75 * tokens) / RATE)
    return tuple(count * frames for count in (2, 8, 320))


def in_turns(codes):
    return (codes + np.array([[10_000], [11_024]])).T.reshape(-1)


def in_turns_by_slices(codes):
    line = np.empty(codes.size, codes.dtype)
    line[0::2], line[1::2] = codes[0] + 10_000, codes[1] + 11_024
    return line


def peak(weights, prefetch):
    pairs = pairwise([*weights, 0])
    return max(now + prefetch * coming for now, coming in pairs)


def peak_by_loop(weights, prefetch):
    highest = 0
    for place, here in enumerate(weights):
        coming = weights[place + 1] if prefetch and place + 1 < len(weights) else 0
        highest = max(highest, here + coming)
    return highest


def wasted(lengths, size):
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(len(batch) * max(batch) - sum(batch) for batch in batches)


def wasted_by_rows(lengths, size):
    idle = 0
    for place, length in enumerate(lengths):
        first = place - place % size
        idle += max(lengths[first : first + size]) - length
    return idle


def padded_at_the_end(lengths, size):
    """The whole list as one batch."""
    return len(lengths) * max(lengths) - sum(lengths)


CODES = np.array([[0, 5, 1023], [7, 0, 1]])

EXERCISES = [
    Exercise(
        id="14.1",
        title="How much is how long",
        hint="Tokens to seconds, 49.9 of them each; seconds to frames, 75 each, rounded down; the rest follows.",
        solution=sizes,
        variant=sizes_by_fractions,
        cases=[(256,), (64,), (1,), (499,), (100,)],
        mistakes=[
            Mistake(
                lambda tokens: tuple(int(tokens * rate / 49.9) for rate in (150, 600, 24_000)),
                "Only whole frames count: round down once, to frames, then multiply.",
            ),
            Mistake(
                lambda tokens: tuple(count * math.ceil(tokens * 75 / 49.9) for count in (2, 8, 320)),
                "A frame that is not full does not count: round down.",
            ),
            Mistake(
                lambda tokens: tuple(count * int(tokens * 75 / 50) for count in (2, 8, 320)),
                "The semantic rate is 49.9 tokens a second, not 50.",
            ),
        ],
    ),
    Exercise(
        id="14.2",
        title="Two codebooks in one line",
        hint="Frame by frame: the first book's code with 10000 added, then the second's with 11024.",
        solution=in_turns,
        variant=in_turns_by_slices,
        cases=[(CODES,), (CODES[:, :1],), (np.arange(8).reshape(2, 4),)],
        mistakes=[
            Mistake(
                lambda codes: (codes + np.array([[10_000], [11_024]])).reshape(-1),
                "This gives one book after the other; the books must alternate, frame by frame.",
            ),
            Mistake(
                lambda codes: (codes + 10_000).T.reshape(-1),
                "Both books have the same 1024 codes: without an offset, the second cannot be distinguished.",
            ),
            Mistake(
                lambda codes: (codes + np.array([[11_024], [10_000]])).T.reshape(-1),
                "The offsets are exchanged: the first book's codes begin at 10000.",
            ),
        ],
    ),
    Exercise(
        id="14.3",
        title="What must fit",
        hint="Without prefetch one stage is in memory. With it, the next one too; after the last stage there is none.",
        solution=peak,
        variant=peak_by_loop,
        cases=[([5, 3, 8, 1], False), ([5, 3, 8, 1], True), ([4], True), ([1, 1, 9], True), ([6, 6, 1, 2], True)],
        mistakes=[
            Mistake(
                lambda weights, prefetch: sum(weights),
                "That is the model without offload: all stages at once.",
            ),
            Mistake(
                lambda weights, prefetch: max(weights),
                "With prefetch there are two stages at a time.",
            ),
            Mistake(
                lambda weights, prefetch: sum(sorted(weights)[-1 - prefetch :]),
                "The two largest need not be neighbours: only the next stage is fetched.",
            ),
            Mistake(
                lambda weights, prefetch: max(
                    here + prefetch * weights[(place + 1) % len(weights)] for place, here in enumerate(weights)
                ),
                "After the last stage nothing is fetched: there may be no next text.",
            ),
        ],
    ),
    Exercise(
        id="14.4",
        title="Steps for nothing",
        hint="A batch runs until its longest row ends. The rows that ended before still compute, for nothing.",
        solution=wasted,
        variant=wasted_by_rows,
        cases=[([4, 1, 3, 2], 2), ([1, 2, 3, 4], 2), ([5, 1, 1], 2), ([7], 4), ([2, 9, 4, 4, 1], 3)],
        mistakes=[
            Mistake(
                padded_at_the_end,
                "Each batch has a longest row of its own.",
            ),
            Mistake(
                lambda lengths, size: sum(
                    max(lengths[start : start + size]) - min(lengths[start : start + size])
                    for start in range(0, len(lengths), size)
                ),
                "Not only the shortest row is padded: count every row of the batch.",
            ),
            Mistake(
                lambda lengths, size: wasted(sorted(lengths), size),
                "Take the rows in the order in which they are given: sorting would reduce what is asked for.",
            ),
            Mistake(
                lambda lengths, size: sum(
                    size * max(lengths[start : start + size]) - sum(lengths[start : start + size])
                    for start in range(0, len(lengths), size)
                ),
                "The last batch may have fewer rows.",
            ),
        ],
    ),
]
