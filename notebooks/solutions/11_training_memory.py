"""Solutions of 11_training_memory. They spoil the fun: try first."""

from __future__ import annotations

import math

from labsupport.course.exercises import Exercise, Mistake


def most_alive(layers, every, inside):
    return math.ceil(layers / every) + every * inside


def most_alive_group_by_group(layers, every, inside):
    entries = len(range(0, layers, every))
    return entries + sum(inside for _ in range(every))


def forward_runs(layers, every):
    return layers if every is None else 2 * layers


def forward_runs_counted(layers, every):
    groups = [layers] if every is None else [min(every, layers - first) for first in range(0, layers, every)]
    return sum(size * (1 if every is None else 2) for size in groups)


def mean_loss(means, counts):
    return sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)


def mean_loss_token_by_token(means, counts):
    losses = [mean for mean, count in zip(means, counts, strict=True) for _ in range(count)]
    return sum(losses) / len(losses)


EXERCISES = [
    Exercise(
        id="11.1",
        title="How much is alive",
        hint="Every group's input is stored; the inside of one group exists while the backward pass runs through it.",
        solution=most_alive,
        variant=most_alive_group_by_group,
        cases=[(100, 10, 1), (9, 3, 16), (10, 4, 2.5), (6, 6, 16)],
        mistakes=[
            Mistake(
                lambda layers, every, inside: layers / every + every,
                "A layer's inside is not one unit: multiply it in.",
            ),
            Mistake(
                lambda layers, every, inside: layers // every + every * inside,
                "The last, shorter group has an input, too: round up.",
            ),
            Mistake(
                lambda layers, every, inside: math.ceil(layers / every) * every * inside,
                "Only one group's inside is alive at a time, not that of all.",
            ),
        ],
    ),
    Exercise(
        id="11.2",
        title="What it costs",
        hint="With checkpoints every layer runs in forward, and once more in backward, whatever the group.",
        solution=forward_runs,
        variant=forward_runs_counted,
        cases=[(6, None), (6, 1), (6, 3), (32, 6)],
        mistakes=[
            Mistake(lambda layers, every: 2 * layers, "Without checkpoints nothing runs twice."),
            Mistake(
                lambda layers, every: layers if every is None else layers + math.ceil(layers / every),
                "Not only the groups' first layers run again: their whole insides are needed.",
            ),
            Mistake(
                lambda layers, every: layers if every is None else layers * (1 + every),
                "A group runs again once, not once for each of its layers.",
            ),
        ],
    ),
    Exercise(
        id="11.3",
        title="The mean over all tokens",
        hint="A batch counts as much as it has tokens.",
        solution=mean_loss,
        variant=mean_loss_token_by_token,
        cases=[([1.0, 3.0], [10, 30]), ([0.5, 0.5, 2.0], [7, 1, 4]), ([1.5], [9])],
        mistakes=[
            Mistake(
                lambda means, counts: sum(means) / len(means),
                "That counts each batch alike: a token in a short batch counts more than one in a long batch.",
            ),
            Mistake(
                lambda means, counts: sum(m * c for m, c in zip(means, counts, strict=True)) / len(means),
                "Divide by the tokens, not by the batches.",
            ),
            Mistake(
                lambda means, counts: (
                    sum(m / c for m, c in zip(means, counts, strict=True)) / sum(1 / c for c in counts)
                ),
                "The other way round: a batch with more tokens counts more.",
            ),
        ],
    ),
]
