"""Solutions of 06_static_kv_cache. They spoil the fun: try first."""

from __future__ import annotations

import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def shift(cache, new):
    return np.concatenate([cache[:, :, new.shape[2] :], new], axis=2)


def shift_by_rolling(cache, new):
    moved = np.roll(cache, -new.shape[2], axis=2)
    moved[:, :, cache.shape[2] - new.shape[2] :] = new
    return moved


def visible(position, capacity):
    return np.arange(capacity) >= capacity - 1 - position


def visible_by_counting(position, capacity):
    filled = position + 1
    return np.array([False] * (capacity - filled) + [True] * filled)


def break_even(compile_seconds, before, after):
    return math.ceil(compile_seconds / (before - after)) if after < before else math.inf


def break_even_by_adding_up(compile_seconds, before, after):
    if after >= before:
        return math.inf
    tokens = int(compile_seconds / (before - after))
    while compile_seconds + tokens * after > tokens * before:
        tokens += 1
    return tokens


def example(places, start=0):
    return np.arange(start, start + 2 * places, dtype=np.float32).reshape(1, 2, places, 1)


EXERCISES = [
    Exercise(
        id="6.1",
        title="Article B's cache",
        hint="Two operations: a slice leaves out the oldest places, and what is new goes behind. The size stays.",
        solution=shift,
        variant=shift_by_rolling,
        cases=[(example(5), example(1, 100)), (example(4), example(3, 50)), (example(2), example(2, 70))],
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
        ],
    ),
    Exercise(
        id="6.2",
        title="Who may be seen",
        hint="The token at `position` is one of position + 1, and they stand at the end.",
        solution=visible,
        variant=visible_by_counting,
        cases=[(0, 4), (2, 4), (3, 4), (0, 1), (100, 448)],
        mistakes=[
            Mistake(
                lambda position, capacity: np.arange(capacity) <= position,
                "That is the static cache, which fills from the front; this one fills from the end.",
            ),
            Mistake(
                lambda position, capacity: np.arange(capacity) >= capacity - position,
                "One is missing: at position 0 there is one token, and it sees itself.",
            ),
            Mistake(
                lambda position, capacity: np.arange(capacity) < capacity - 1 - position,
                "True is for the places that may be seen; these are the empty ones.",
            ),
        ],
    ),
    Exercise(
        id="6.3",
        title="Break-even",
        hint="Each token saves before - after. How many of these pay for the compiling? And if nothing is saved?",
        solution=break_even,
        variant=break_even_by_adding_up,
        cases=[(30.0, 0.5, 0.25), (1.0, 0.75, 0.5), (10.0, 0.5, 0.5), (2.0, 0.25, 0.5), (1.0, 2.0, 0.5)],
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
        ],
    ),
]
