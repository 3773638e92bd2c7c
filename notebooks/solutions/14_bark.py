"""Solutions of the exercises in 14_bark. They spoil the fun: try first."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong


@functools.cache
def load_bark():
    """The lesson's Bark, and what each of its stages gives for a text: (generator, semantic, coarse, fine)."""
    import transformers

    from labsupport.bark import models
    from labsupport.bark.generator import BarkGenerator
    from labsupport.bark.tokens import encode_text

    transformers.logging.set_verbosity_error()  # it misses an attention mask, for which Bark has a padding token
    generator = BarkGenerator(models.load("bark-lesson"))
    tokens, mask = encode_text(["a short sentence"], "bark-lesson")
    semantic = generator.semantic(tokens, mask, 6)
    coarse = generator.coarse(semantic)
    return generator, semantic, coarse, generator.fine(coarse)


# --- 14.1 -------------------------------------------------------------------------------------------------------------

RATE = Fraction(499, 10)  # semantic tokens a second


def sizes(tokens):
    frames = int(tokens * 75 / 49.9)
    return 2 * frames, 8 * frames, 320 * frames


def sizes_by_fractions(tokens):
    frames = math.floor(Fraction(75 * tokens) / RATE)
    return tuple(count * frames for count in (2, 8, 320))


def sizes_in_whole_numbers(tokens):
    frames = 750 * tokens // 499
    return [2 * frames, 8 * frames, 320 * frames]


def sizes_with_numpy(tokens):
    return np.array([2, 8, 320]) * np.floor(tokens / 49.9 * 75)


def draw_tokens(rng):
    """A number whose frames are not within float noise of a whole number."""
    while True:
        tokens = int(rng.integers(1, 768))
        if 5 < 750 * tokens % 499 < 494:
            return (tokens,)


# --- 14.2 -------------------------------------------------------------------------------------------------------------


def in_turns(codes):
    shifted = codes + np.array([[10_000], [11_024]])  # (rows, 2, frames)
    return shifted.swapaxes(1, 2).reshape(len(codes), 2 * codes.shape[2])  # (rows, 2 * frames)


def in_turns_by_slices(codes):
    line = np.empty((codes.shape[0], 2 * codes.shape[2]), codes.dtype)
    line[:, 0::2], line[:, 1::2] = codes[:, 0] + 10_000, codes[:, 1] + 11_024
    return line


def in_turns_code_by_code(codes):
    return [
        [code for first, second in zip(*row.tolist(), strict=True) for code in (first + 10_000, second + 11_024)]
        for row in codes
    ]


def in_turns_by_stacking(codes):
    return np.stack([codes[:, 0] + 10_000, codes[:, 1] + 11_024], axis=-1).reshape(codes.shape[0], -1)


def first_row_alone(codes):
    return in_turns(codes[:1])


def one_book_after_the_other(codes):
    return (codes + np.array([[10_000], [11_024]])).reshape(len(codes), -1)


def shifted_in_place(codes):
    codes[:, 0] += 10_000
    codes[:, 1] += 11_024
    return codes.swapaxes(1, 2).reshape(len(codes), -1)


def rows_joined(codes):
    return in_turns(codes).reshape(-1)


def draw_codes(rng):
    rows, frames = rng.integers(1, [4, 9])
    return (rng.integers(0, 1024, (rows, 2, frames)),)


def run_in_turns(answer):
    """Bark's fine model reads the answer's line of the coarse model's codes."""
    import torch

    generator, _, coarse, fine = load_bark()
    books = torch.stack([coarse[:, 0::2] - 10_000, coarse[:, 1::2] - 11_024], 1)  # (rows, 2, frames)
    line = torch.from_numpy(np.asarray(answer(books.numpy())).astype(np.int64))
    if line.shape != coarse.shape or not torch.equal(generator.fine(line), fine):
        raise Wrong("the fine model gives other codes for your line than for the coarse model's own.")
    return f"The fine model gives the same {fine.numel()} codes for your line as for the coarse model's own."


# --- 14.3 -------------------------------------------------------------------------------------------------------------


def peak(weights, prefetch):
    pairs = itertools.pairwise([*weights, 0])
    return max(now + prefetch * coming for now, coming in pairs)


def peak_by_loop(weights, prefetch):
    highest = 0
    for place, here in enumerate(weights):
        coming = weights[place + 1] if prefetch and place + 1 < len(weights) else 0
        highest = max(highest, here + coming)
    return highest


def peak_with_numpy(weights, prefetch):
    sizes = np.array(weights)
    return (sizes + np.append(sizes[1:], 0)).max() if prefetch else sizes.max()


def peak_by_windows(weights, prefetch):
    length = 1 + bool(prefetch)
    return max(sum(weights[place : place + length]) for place in range(len(weights)))


def draw_weights(rng):
    return rng.integers(1, 30, rng.integers(1, 7)).tolist(), bool(rng.integers(2))


def run_peak(answer):
    """An offloader of Bark's stages notes the bytes of weights that are there, at each change."""
    from labsupport.bark import models
    from labsupport.optim.offload import MemoryStore, Offloader

    generator = load_bark()[0]
    found = []
    for prefetch in (False, True):
        offloader = Offloader(models.stages(generator.model), MemoryStore("cpu"), prefetch)
        for name in offloader.stages:
            offloader.activate(name)
        real = max(count for _, count in offloader.resident)
        said = answer(list(offloader.sizes.values()), prefetch)
        offloader.remove()
        if said != real:
            way = "with" if prefetch else "without"
            raise Wrong(f"{way} prefetch, {real:,} bytes of Bark's weights were there at the most, not {said:,}.")
        found.append(f"{real / 1e6:.1f} MB")
    return f"The lesson's Bark needs room for {found[0]} of weights, {found[1]} with prefetch, as you say."


# --- 14.4 -------------------------------------------------------------------------------------------------------------


def wasted(lengths, size):
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(len(batch) * max(batch) - sum(batch) for batch in batches)


def wasted_by_rows(lengths, size):
    idle = 0
    for place, length in enumerate(lengths):
        first = place - place % size
        idle += max(lengths[first : first + size]) - length
    return idle


def wasted_by_steps(lengths, size):
    idle = 0
    for start in range(0, len(lengths), size):
        batch = lengths[start : start + size]
        for step in range(max(batch)):
            idle += sum(length <= step for length in batch)
    return idle


def wasted_with_numpy(lengths, size):
    batches = np.split(np.array(lengths), range(size, len(lengths), size))
    return sum((batch.max() - batch).sum() for batch in batches)


def one_batch(lengths, size):
    return len(lengths) * max(lengths) - sum(lengths)


def shortest_alone(lengths, size):
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(max(batch) - min(batch) for batch in batches)


def sorted_first(lengths, size):
    return wasted(sorted(lengths), size)


def full_batches(lengths, size):
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(size * max(batch) - sum(batch) for batch in batches)


def last_batch_left_out(lengths, size):
    whole = len(lengths) // size * size
    return wasted(lengths[:whole], size)


def popped(lengths, size):
    idle = 0
    while lengths:
        batch = [lengths.pop(0) for _ in range(min(size, len(lengths)))]
        idle += len(batch) * max(batch) - sum(batch)
    return idle


def draw_lengths(rng):
    return rng.integers(1, 30, rng.integers(1, 12)).tolist(), int(rng.integers(1, 6))


EXERCISES = [
    Exercise(
        id="14.1",
        title="How much is how long",
        hints=(
            "Tokens to seconds, seconds to frames, and frames to all the others.",
            "Only whole frames count: where in the calculation must you round, and in which direction?",
            "Round the frames down; codes and samples are whole multiples of them.",
        ),
        solution=sizes,
        variants=[sizes_by_fractions, sizes_in_whole_numbers, sizes_with_numpy],
        draw=draw_tokens,
        edges=[(256,), (64,), (1,)],
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
            Mistake(
                lambda tokens: tuple(count * round(tokens * 75 / 49.9) for count in (2, 8, 320)),
                "Rounded to the nearest, a frame may count that is not full.",
            ),
            Mistake(lambda tokens: sizes(tokens)[::-1], "The order is coarse codes, fine codes, samples."),
        ],
    ),
    Exercise(
        id="14.2",
        title="Two codebooks in one line, in the model",
        hints=(
            "Write down the line of two frames by hand. Whose code comes after the first book's first?",
            "Shift each book's codes by its own offset; then bring the axis of the books behind that of the frames.",
            "With the books last, a reshape of each row to one axis lets them take turns.",
        ),
        solution=in_turns,
        variants=[in_turns_by_slices, in_turns_code_by_code, in_turns_by_stacking],
        draw=draw_codes,
        edges=[(np.array([[[0, 5, 1023], [7, 0, 1]]]),)],
        trial=run_in_turns,
        mistakes=[
            Mistake(
                one_book_after_the_other,
                "This gives one book after the other; the books must alternate, frame by frame.",
            ),
            Mistake(
                lambda codes: (codes + 10_000).swapaxes(1, 2).reshape(len(codes), -1),
                "Both books have the same 1024 codes: without its own offset, the second cannot be distinguished.",
            ),
            Mistake(
                lambda codes: in_turns(codes[:, ::-1]),
                "The books are exchanged: the first one comes first, and its codes begin at 10000.",
            ),
            Mistake(first_row_alone, "Each text of the batch has its own line."),
            Mistake(rows_joined, "The texts are not joined: the result is (rows, 2 * frames)."),
            Mistake(shifted_in_place, "The caller's codes must stay as they were."),
        ],
    ),
    Exercise(
        id="14.3",
        title="What must fit, of the model",
        hints=(
            "How many stages are there at once, without prefetch and with it?",
            "With prefetch a stage and the one after it are there together. Look at every such pair.",
            "After the last stage nothing is fetched: its turn needs room for itself alone.",
        ),
        solution=peak,
        variants=[peak_by_loop, peak_with_numpy, peak_by_windows],
        draw=draw_weights,
        draws=40,
        edges=[([5, 3, 8, 1], False), ([5, 3, 8, 1], True), ([4], True), ([1, 1, 9], True), ([6, 1, 2, 6], True)],
        trial=run_peak,
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
            Mistake(
                lambda weights, prefetch: max(weights) * (1 + prefetch),
                "The neighbour of the largest stage need not be as large.",
            ),
        ],
    ),
    Exercise(
        id="14.4",
        title="Steps for nothing",
        hints=(
            "A batch runs until its longest row ends. What do the rows that ended before?",
            "Cut the list into batches in its order. In each, every row computes as long as the longest.",
            "Count each row's steps after its own end, and add up all batches; the last may have fewer rows.",
        ),
        solution=wasted,
        variants=[wasted_by_rows, wasted_by_steps, wasted_with_numpy],
        draw=draw_lengths,
        draws=40,
        edges=[([4, 1, 3, 2], 2), ([5, 1, 1], 2), ([7], 4), ([2, 9, 4, 4, 1], 3)],
        mistakes=[
            Mistake(one_batch, "Each batch has a longest row of its own."),
            Mistake(shortest_alone, "Not only the shortest row is padded: count every row of the batch."),
            Mistake(
                sorted_first,
                "Take the rows in the order in which they are given: sorting would reduce what is asked for.",
            ),
            Mistake(full_batches, "The last batch may have fewer rows."),
            Mistake(last_batch_left_out, "The last batch counts, too, if it is not full."),
            Mistake(popped, "The caller's list must stay as it was."),
        ],
    ),
]
