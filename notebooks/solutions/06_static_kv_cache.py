"""Solutions of 06_static_kv_cache. They spoil the fun: try first."""

from __future__ import annotations

import functools
import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 6.1 --------------------------------------------------------------------------------------------------------------


def shift(cache, new):
    return np.concatenate([cache[:, :, new.shape[2] :], new], axis=2)


def shift_by_rolling(cache, new):
    moved = np.roll(cache, -new.shape[2], axis=2)
    moved[:, :, cache.shape[2] - new.shape[2] :] = new
    return moved


def shift_by_a_window(cache, new):
    return np.concatenate([cache, new], axis=2)[:, :, new.shape[2] :]


def shift_token_by_token(cache, new):
    for place in range(new.shape[2]):
        cache = np.append(cache[:, :, 1:], new[:, :, place : place + 1], axis=2)
    return cache


def shift_in_place(cache, new):
    cache[:, :, : -new.shape[2]] = cache[:, :, new.shape[2] :].copy()
    cache[:, :, -new.shape[2] :] = new
    return cache


def draw_cache(rng):
    rows, heads, capacity, head_dim = rng.integers(1, [4, 4, 12, 5])
    new = rng.integers(1, capacity + 1)
    draw = functools.partial(rng.standard_normal, dtype=np.float32)
    return draw((rows, heads, capacity, head_dim)), draw((rows, heads, new, head_dim))


def run_with_shift(answer):
    """tiny.en with article B's cache, whose two operations are the answer."""
    from labsupport.course import trials
    from labsupport.optim.kv_cache import PaddedCache

    part = trials.NumpyPart(answer)

    class LearnersCache(PaddedCache):
        @staticmethod
        def append(past, new, position):
            return part(past[0], new[0]), part(past[1], new[1])

    return trials.run_with(cache=LearnersCache, part=part)


# --- 6.2 --------------------------------------------------------------------------------------------------------------


def visible(positions, capacity):
    held = np.arange(capacity) + positions[-1] - (capacity - 1)  # which token each place holds
    return (held >= 0) & (held <= positions[:, None])  # (queries, capacity)


def visible_by_counting(positions, capacity):
    newest = positions[-1]
    rows = []
    for position in positions:
        later, seen = newest - position, position + 1
        rows.append([False] * (capacity - later - seen) + [True] * seen + [False] * later)
    return rows


def visible_by_filling(positions, capacity):
    mask = np.zeros((len(positions), capacity), bool)
    for row, position in enumerate(positions):
        end = capacity - (positions[-1] - position)
        mask[row, end - position - 1 : end] = True
    return mask


def visible_by_a_triangle(positions, capacity):
    queries = len(positions)
    mask = np.tri(queries, capacity, capacity - queries, dtype=bool)
    mask[:, : capacity - 1 - positions[-1]] = False
    return mask


def draw_places(rng):
    capacity = int(rng.integers(1, 40))
    newest = rng.integers(capacity)
    return np.arange(rng.integers(newest + 1), newest + 1), capacity


def run_with_visible(answer):
    """tiny.en with article B's cache, whose mask is the answer."""
    from labsupport.course import trials
    from labsupport.optim.kv_cache import PaddedCache

    part = trials.NumpyPart(answer)

    class LearnersCache(PaddedCache):
        @staticmethod
        def visible(position, capacity):
            return part(position, capacity)

    return trials.run_with(cache=LearnersCache, part=part)


# --- 6.3 --------------------------------------------------------------------------------------------------------------


def break_even(compile_seconds, before, after):
    return math.ceil(compile_seconds / (before - after)) if after < before else math.inf


def break_even_by_adding_up(compile_seconds, before, after):
    if after >= before:
        return math.inf
    tokens = int(compile_seconds / (before - after))
    while compile_seconds + tokens * after > tokens * before:
        tokens += 1
    return tokens


def break_even_with_numpy(compile_seconds, before, after):
    return np.ceil(compile_seconds / (before - after)) if before > after else np.inf


def break_even_by_floor(compile_seconds, before, after):
    saved = before - after
    return float("inf") if saved <= 0 else -int(-compile_seconds // saved)


def draw_times(rng):
    """Seconds in eighths, which floating point holds exactly: the quotient is a whole number or far from one."""
    compile_seconds, before, after = rng.integers(1, [800, 40, 40]) / 8
    return float(compile_seconds), float(before), float(after)


EXERCISES = [
    Exercise(
        id="6.1",
        title="Article B's cache, in the model",
        hints=(
            "The cache goes in and comes out with the same shape. Which places must go for the new ones to fit?",
            "Two operations are enough: a slice that leaves out the oldest places, and a concatenation.",
            "The oldest stand in front; as many of them go as `new` has places on axis 2. The newest stand at the end.",
        ),
        solution=shift,
        variants=[shift_by_rolling, shift_by_a_window, shift_token_by_token],
        draw=draw_cache,
        rtol=1e-6,
        trial=run_with_shift,
        mistakes=[
            Mistake(
                lambda cache, new: np.concatenate([cache, new], axis=2),
                "That is the growing cache: one that comes in must push one out.",
            ),
            Mistake(
                lambda cache, new: np.concatenate([new, cache[:, :, : cache.shape[2] - new.shape[2]]], axis=2),
                "The newest stands at the end, and the oldest falls out.",
            ),
            Mistake(
                lambda cache, new: np.concatenate([cache[:, :, : cache.shape[2] - new.shape[2]], new], axis=2),
                "The newest are dropped instead of the oldest: slice from the front.",
            ),
            Mistake(
                lambda cache, new: np.concatenate([cache[:, :, 1:], new], axis=2),
                "As many places fall out as come in: a prompt brings several tokens at once.",
            ),
            Mistake(
                lambda cache, new: np.concatenate([cache[:1, :, new.shape[2] :], new[:1]], axis=2),
                "Every row of the batch has its own keys: only the first comes out.",
            ),
            Mistake(shift_in_place, "The graph cannot write into its input: give a new array."),
        ],
    ),
    Exercise(
        id="6.2",
        title="Who may be seen, in the model",
        hints=(
            "Two kinds of places are hidden: those that are still empty, and those with later tokens than the query.",
            "The last place holds the newest token, positions[-1]. Which token does place i hold?",
            "Place i holds token i + positions[-1] - (capacity - 1): from 0 to the query's own position.",
        ),
        solution=visible,
        variants=[visible_by_counting, visible_by_filling, visible_by_a_triangle],
        draw=draw_places,
        edges=[(np.array([0]), 4), (np.array([3]), 4), (np.array([0]), 1), (np.array([0, 1, 2]), 4)],
        trial=run_with_visible,
        mistakes=[
            Mistake(
                lambda positions, capacity: np.arange(capacity) <= positions[:, None],
                "That is the static cache, which fills from the front; this one fills from the end.",
            ),
            Mistake(
                lambda positions, capacity: np.repeat(
                    np.arange(capacity)[None] >= capacity - 1 - positions[-1], len(positions), axis=0
                ),
                "A token of the prompt must not see those after it.",
            ),
            Mistake(
                lambda positions, capacity: np.arange(capacity) >= capacity - 1 - positions[:, None],
                "Only the newest token stands at the end: the others of a prompt stand before it.",
            ),
            Mistake(
                lambda positions, capacity: np.tri(len(positions), capacity, capacity - len(positions), dtype=bool),
                "The places before the first token are empty: nothing may be seen there.",
            ),
            Mistake(
                lambda positions, capacity: ~visible(positions, capacity),
                "True is for the places that may be seen; these are the others.",
            ),
            Mistake(
                lambda positions, capacity: visible(positions, capacity).astype(int),
                "A mask is of bool: numbers would be added to the scores.",
            ),
            Mistake(
                lambda positions, capacity: visible(positions, capacity)[-1],
                "Each query has its own row: the shape is (queries, capacity).",
            ),
        ],
    ),
    Exercise(
        id="6.3",
        title="Break-even",
        hints=(
            "How much does each token save, and what must all savings together pay for?",
            "Compiling is paid for when tokens times what one saves reaches it. Tokens are whole.",
            "Divide and round up. And if a compiled step is not faster?",
        ),
        solution=break_even,
        variants=[break_even_by_adding_up, break_even_with_numpy, break_even_by_floor],
        draw=draw_times,
        draws=40,
        edges=[(30.0, 0.5, 0.25), (10.0, 0.5, 0.5), (2.0, 0.25, 0.5)],
        mistakes=[
            Mistake(
                lambda compile_seconds, before, after: (
                    math.ceil(compile_seconds / (before - after)) if after != before else math.inf
                ),
                "If a compiled step is slower, no text is long enough.",
            ),
            Mistake(
                lambda compile_seconds, before, after: (
                    math.ceil(compile_seconds / before) if after < before else math.inf
                ),
                "The compiled steps take time, too: only the difference is saved.",
            ),
            Mistake(
                lambda compile_seconds, before, after: (
                    compile_seconds / (before - after) if after < before else math.inf
                ),
                "Tokens are whole: round up.",
            ),
            Mistake(
                lambda compile_seconds, before, after: (
                    round(compile_seconds / (before - after)) if after < before else math.inf
                ),
                "Rounded to the nearest, it may be one token too few to have paid.",
            ),
            Mistake(
                lambda compile_seconds, before, after: (
                    int(compile_seconds / (before - after)) + 1 if after < before else math.inf
                ),
                "Where it comes out even, the last token has paid already.",
            ),
        ],
    ),
]
