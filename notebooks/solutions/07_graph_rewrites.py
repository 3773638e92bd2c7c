"""Solutions of 07_graph_rewrites. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def may_broadcast(shape, repeats, other):
    batch, matrix = slice(0, len(shape) - 2), slice(len(shape) - 2, None)
    fits = all(
        n == 1 or (length == 1 and o == n)
        for length, n, o in zip(shape[batch], repeats[batch], other[batch], strict=True)
    )
    return fits and all(n == 1 for n in repeats[matrix])


def may_broadcast_axis_by_axis(shape, repeats, other):
    for axis, times in enumerate(repeats):
        if times == 1:
            continue
        if axis >= len(shape) - 2 or shape[axis] != 1 or other[axis] != times:
            return False
    return True


def compose(first, second):
    return [first[axis] for axis in second]


def compose_by_trying(first, second):
    axes = np.zeros([2 + axis for axis in range(len(first))])  # every axis has a length of its own
    return [length - 2 for length in axes.transpose(first).transpose(second).shape]


def moves_data(shape, perm):
    longer = [axis for axis in perm if shape[axis] != 1]
    return longer != sorted(longer)


def moves_data_by_comparing(shape, perm):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return bool((numbers.transpose(perm).ravel() != numbers.ravel()).any())


def scores(q, k):
    rows = q[:, :, 0].swapaxes(0, 1)  # (heads, beams, head_dim)
    return (rows @ k[0].swapaxes(-1, -2)).swapaxes(0, 1)[:, :, None]


def scores_by_head(q, k):
    per_head = [q[:, head, 0] @ k[0, head].T for head in range(q.shape[1])]  # each (beams, length)
    return np.stack(per_head, axis=1)[:, :, None]


def example(beams, heads, length, dim):
    random = np.random.default_rng(beams)
    return random.standard_normal((beams, heads, 1, dim)), random.standard_normal((1, heads, length, dim))


EXERCISES = [
    Exercise(
        id="7.1",
        title="Tiles that a product does not need",
        hint="Every repeated axis must be a batch axis, have had length 1, and be as long in the other operand.",
        solution=may_broadcast,
        variant=may_broadcast_axis_by_axis,
        cases=[
            ((1, 8, 64, 1500), (5, 1, 1, 1), (5, 8, 1, 64)),
            ((1, 8, 64, 1500), (5, 1, 1, 1), (1, 8, 1, 64)),
            ((2, 8, 64, 1500), (5, 1, 1, 1), (10, 8, 1, 64)),
            ((1, 1, 64, 1500), (5, 8, 1, 1), (5, 8, 1, 64)),
            ((5, 8, 1, 1500), (1, 1, 64, 1), (5, 8, 64, 64)),
            ((5, 8, 64, 1), (1, 1, 1, 7), (5, 8, 1, 64)),
            ((5, 8, 64, 7), (1, 1, 1, 1), (5, 8, 1, 64)),
        ],
        mistakes=[
            Mistake(
                lambda shape, repeats, other: all(
                    n == 1 or length == 1 for length, n in zip(shape, repeats, strict=True)
                ),
                "The result must be as long as before: check the other operand, and the last two axes.",
            ),
            Mistake(
                lambda shape, repeats, other: all(
                    n == 1 or (length == 1 and o == n) for length, n, o in zip(shape, repeats, other, strict=True)
                ),
                "The last two axes are the matrix itself: a product does not broadcast them.",
            ),
            Mistake(
                lambda shape, repeats, other: (
                    all(
                        n == 1 or o == length * n
                        for length, n, o in zip(shape[:-2], repeats[:-2], other[:-2], strict=True)
                    )
                    and repeats[-2:] == (1, 1)
                ),
                "Two matrices repeated five times are ten, but a product only broadcasts an axis of length 1.",
            ),
        ],
    ),
    Exercise(
        id="7.2",
        title="Two permutes as one",
        hint="Axis i of the end is axis second[i] of the middle; and which axis of the beginning is that?",
        solution=compose,
        variant=compose_by_trying,
        cases=[
            ([0, 2, 1, 3], [0, 1, 3, 2]),
            ([1, 2, 0], [1, 2, 0]),
            ([0, 2, 1, 3], [0, 2, 1, 3]),
            ([2, 0, 1], [0, 2, 1]),
        ],
        mistakes=[
            Mistake(
                lambda first, second: [second[axis] for axis in first],
                "That is the other order: the first permute comes first.",
            ),
            Mistake(
                lambda first, second: [first.index(axis) for axis in second],
                "`first.index` inverts the first permute; it must be applied as it is.",
            ),
            Mistake(
                lambda first, second: list(second),
                "The first permute is missing: axis second[i] of the middle is another one of the beginning.",
            ),
        ],
    ),
    Exercise(
        id="7.3",
        title="Does a permute move anything?",
        hint="An axis of length 1 may stand anywhere. What must the others do?",
        solution=moves_data,
        variant=moves_data_by_comparing,
        cases=[
            ((5, 1, 8, 64), (0, 2, 1, 3)),
            ((5, 1500, 8, 64), (0, 2, 1, 3)),
            ((5, 8, 1, 64), (0, 1, 3, 2)),
            ((2, 3), (0, 1)),
            ((2, 3), (1, 0)),
            ((1, 4, 1, 3), (3, 0, 1, 2)),
            ((1, 4, 1, 3), (2, 1, 0, 3)),
        ],
        mistakes=[
            Mistake(
                lambda shape, perm: list(perm) != sorted(perm),
                "Permuting an axis of length 1 changes the shape, but no number's place in memory.",
            ),
            Mistake(
                lambda shape, perm: 1 not in shape,
                "An axis of length 1 somewhere does not help if two longer ones change places.",
            ),
            Mistake(
                lambda shape, perm: tuple(shape[axis] for axis in perm) != tuple(shape),
                "The shape may change without a move; compare the order of the axes that are longer than 1.",
            ),
        ],
    ),
    Exercise(
        id="7.4",
        title="Beams as the rows of one matrix",
        hint="Bring the heads to the front: (heads, beams, head_dim) times (heads, head_dim, length), and back.",
        solution=scores,
        variant=scores_by_head,
        cases=[example(5, 2, 7, 4), example(3, 3, 3, 3), example(1, 2, 4, 2)],
        mistakes=[
            Mistake(
                lambda q, k: (q[:, :, 0].swapaxes(0, 1) @ k[0].swapaxes(-1, -2))[:, :, None],
                "The heads are still in front: bring the beams back there.",
            ),
            Mistake(
                lambda q, k: (q[:, :, 0].swapaxes(0, 1) @ k[0].swapaxes(-1, -2)).swapaxes(0, 1),
                "The axis of the one query is missing: (beams, heads, 1, length).",
            ),
            Mistake(
                lambda q, k: (q[:, :, 0] @ k[0, 0].T)[:, :, None],
                "Each head has its own keys; these are the first head's.",
            ),
        ],
    ),
]
