"""Solutions of 08_tpu_mlir. They spoil the fun: try first."""

from __future__ import annotations

import itertools
from collections import defaultdict

from labsupport.course.exercises import Exercise, Mistake

MOVES = [
    ("Permute", "GDMA", 700, 2100),
    ("Permute", "TIU", 40, 0),
    ("Load", "GDMA", 100, 5400),
    ("Load", "GDMA", 10, 100),
    ("MatMul", "GDMA", 50, 2600),
    ("MatMul", "TIU", 900, 0),
    ("Softmax", "TIU", 30, 0),
]
WORK = [
    ("Load", "GDMA", 0, 500),
    ("MatMul", "TIU", 500, 40),
    ("Load", "GDMA", 500, 300),
    ("Softmax", "TIU", 800, 60),
    ("MatMul", "TIU", 870, 30),
    ("Store", "GDMA", 900, 700),
]


def bytes_per_cycle(commands):
    cycles, moved = defaultdict(int), defaultdict(int)
    for op, engine, gdma_cycles, gdma_bytes in commands:
        if engine == "GDMA":
            cycles[op] += gdma_cycles
            moved[op] += gdma_bytes
    return {op: moved[op] / cycles[op] for op in cycles}


def bytes_per_cycle_by_op(commands):
    transfers = [command for command in commands if command[1] == "GDMA"]
    rates = {}
    for op in {command[0] for command in transfers}:
        of_op = [command[2:] for command in transfers if command[0] == op]
        rates[op] = sum(moved for _, moved in of_op) / sum(cycles for cycles, _ in of_op)
    return rates


def mean_of_rates(commands):
    rates = defaultdict(list)
    for op, engine, cycles, moved in commands:
        if engine == "GDMA":
            rates[op].append(moved / cycles)
    return {op: sum(values) / len(values) for op, values in rates.items()}


def longest_wait(commands):
    tiu = sorted((start, cycles, op) for op, engine, start, cycles in commands if engine == "TIU")
    waits = [(after[0] - before[0] - before[1], after[2]) for before, after in itertools.pairwise(tiu)]
    return max(waits)[1]


def longest_wait_step_by_step(commands):
    longest, waited_for, end = -1, None, None
    for op, engine, start, cycles in sorted(commands, key=lambda command: command[2]):
        if engine != "TIU":
            continue
        if end is not None and start - end > longest:
            longest, waited_for = start - end, op
        end = start + cycles
    return waited_for


def before_the_wait(commands):
    tiu = sorted((start, cycles, op) for op, engine, start, cycles in commands if engine == "TIU")
    return max((after[0] - before[0] - before[1], before[2]) for before, after in itertools.pairwise(tiu))[1]


def longest_between_starts(commands):
    tiu = sorted((start, op) for op, engine, start, _ in commands if engine == "TIU")
    return max((after[0] - before[0], after[1]) for before, after in itertools.pairwise(tiu))[1]


def longest_with_the_beginning(commands):
    tiu = sorted((start, cycles, op) for op, engine, start, cycles in commands if engine == "TIU")
    tiu = [(0, 0, ""), *tiu]
    return max((after[0] - before[0] - before[1], after[2]) for before, after in itertools.pairwise(tiu))[1]


def cache_bytes(layers, beams, capacity, width, shifts):
    row = beams * width * 2
    stored = capacity if shifts else 1
    return layers * 2 * (capacity - 1 + stored) * row


def cache_bytes_in_numbers(layers, beams, capacity, width, shifts):
    loaded = layers * 2 * beams * (capacity - 1) * width
    stored = layers * 2 * beams * width * (capacity if shifts else 1)
    return 2 * loaded + 2 * stored


EXERCISES = [
    Exercise(
        id="8.1",
        title="Bytes per cycle",
        hint="Add up the bytes and the cycles of an op's GDMA commands, each by itself; then divide.",
        solution=bytes_per_cycle,
        variant=bytes_per_cycle_by_op,
        cases=[(MOVES,), (MOVES[:2],), (MOVES[-2:],)],
        mistakes=[
            Mistake(mean_of_rates, "A mean of rates counts a short command as much as a long one: add up first."),
            Mistake(
                lambda commands: {
                    op: sum(c[3] for c in commands if c[0] == op) / sum(c[2] for c in commands if c[0] == op)
                    for op in {c[0] for c in commands if c[3]}
                },
                "Only the GDMA's cycles count: the TIU moves nothing.",
            ),
            Mistake(
                lambda commands: {op: 1 / rate for op, rate in bytes_per_cycle(commands).items()},
                "That is cycles per byte.",
            ),
            Mistake(
                lambda commands: {**dict.fromkeys([c[0] for c in commands], 0.0), **bytes_per_cycle(commands)},
                "Leave out the ops that move nothing.",
            ),
        ],
    ),
    Exercise(
        id="8.2",
        title="For which op the TIU waits",
        hint="Sort the TIU's commands by start. Each ends at start + cycles; the wait is until the next one's start.",
        solution=longest_wait,
        variant=longest_wait_step_by_step,
        cases=[
            (WORK,),
            (WORK[::-1],),
            (WORK[:4],),
            ([("A", "TIU", 0, 900), *[("B", "TIU", 1000, 5), ("C", "TIU", 1200, 1)]],),
        ],
        mistakes=[
            Mistake(before_the_wait, "That op ran before the wait; the one that had to wait comes after it."),
            Mistake(longest_between_starts, "The time in which a command runs is no wait: count from its end."),
            Mistake(longest_with_the_beginning, "Only stretches between two of the TIU's own commands count."),
        ],
    ),
    Exercise(
        id="8.3",
        title="What the caches cost",
        hint="K and V; capacity - 1 rows are loaded; capacity rows or one are stored; a number in F16 has two bytes.",
        solution=cache_bytes,
        variant=cache_bytes_in_numbers,
        cases=[(1, 5, 448, 512, True), (6, 5, 448, 512, False), (4, 1, 448, 384, True), (2, 3, 10, 8, False)],
        mistakes=[
            Mistake(
                lambda layers, beams, capacity, width, shifts: cache_bytes(layers, beams, capacity, width, shifts) // 2,
                "Half of it is missing: is it K and V, and two bytes a number?",
            ),
            Mistake(
                lambda layers, beams, capacity, width, shifts: (
                    layers * 2 * beams * (capacity - 1 + (capacity if shifts else 0)) * width * 2
                ),
                "The new row is stored, too, when nothing shifts.",
            ),
            Mistake(
                lambda layers, beams, capacity, width, shifts: (
                    layers * 2 * beams * (capacity + (capacity if shifts else 1)) * width * 2
                ),
                "The oldest row is not loaded: it is dropped.",
            ),
            Mistake(
                lambda layers, beams, capacity, width, shifts: cache_bytes(layers, 1, capacity, width, shifts),
                "Each beam has its own caches.",
            ),
        ],
    ),
]
