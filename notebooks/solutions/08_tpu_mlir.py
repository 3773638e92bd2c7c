"""Solutions of 08_tpu_mlir. They spoil the fun: try first."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 8.1 --------------------------------------------------------------------------------------------------------------


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


def bytes_per_cycle_in_one_loop(commands):
    sums = {}
    for op, engine, cycles, moved in commands:
        if engine == "GDMA":
            before = sums.get(op, (0, 0))
            sums[op] = before[0] + moved, before[1] + cycles
    return {op: np.divide(*pair) for op, pair in sums.items()}


def bytes_per_cycle_by_groups(commands):
    def op_of(command):
        return command[0]

    transfers = sorted((command for command in commands if command[1] == "GDMA"), key=op_of)
    columns = {op: list(zip(*group, strict=True)) for op, group in itertools.groupby(transfers, op_of)}
    return {op: sum(moved) / sum(cycles) for op, (_, _, cycles, moved) in columns.items()}


def all_engines_cycles(commands):
    rates = bytes_per_cycle(commands)
    return {op: sum(c[3] for c in commands if c[0] == op) / sum(c[2] for c in commands if c[0] == op) for op in rates}


def whole_rates(commands):
    return {op: int(rate) for op, rate in bytes_per_cycle(commands).items()}


def neighbours_alone(commands):
    """A dictionary of groups of neighbours: the last group of an op wins."""
    transfers = [command for command in commands if command[1] == "GDMA"]
    groups = itertools.groupby(transfers, lambda command: command[0])
    return {op: (lambda c: sum(x[3] for x in c) / sum(x[2] for x in c))(list(group)) for op, group in groups}


def draw_moves(rng):
    ops = ["Permute", "Load", "MatMul", "Softmax", "Store"][: rng.integers(1, 6)]
    commands = []
    for _ in range(rng.integers(1, 12)):
        engine, cycles = str(rng.choice(["GDMA", "TIU"])), int(rng.integers(1, 900))
        commands.append((str(rng.choice(ops)), engine, cycles, int(rng.integers(1, 9999)) if engine == "GDMA" else 0))
    return (commands,)


# --- 8.2 --------------------------------------------------------------------------------------------------------------


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


def longest_wait_with_numpy(commands):
    tiu = sorted([command for command in commands if command[1] == "TIU"], key=lambda command: command[2])
    starts, cycles = np.array([command[2] for command in tiu]), np.array([command[3] for command in tiu])
    return tiu[1 + int(np.argmax(starts[1:] - starts[:-1] - cycles[:-1]))][0]


def longest_wait_by_ends(commands):
    tiu = [command for command in commands if command[1] == "TIU"]
    ends = sorted(start + cycles for _, _, start, cycles in tiu)
    by_start = sorted(tiu, key=lambda command: command[2])[1:]
    return max(zip(by_start, ends, strict=False), key=lambda pair: pair[0][2] - pair[1])[0][0]


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


def in_the_list_s_order(commands):
    tiu = [command for command in commands if command[1] == "TIU"]
    return max((b[2] - a[2] - a[3], b[0]) for a, b in itertools.pairwise(tiu))[1]


def on_any_engine(commands):
    return longest_wait([(op, "TIU", start, cycles) for op, _, start, cycles in commands])


def sorted_in_place(commands):
    commands.sort(key=lambda command: command[2])
    return longest_wait(commands)


def draw_work(rng):
    """The TIU's commands one after the other, each op once, with waits that all differ; the GDMA's beside them."""
    ops = [f"{name}{number}" for name in ("MatMul", "Softmax", "Add") for number in range(4)]
    chosen = rng.permutation(ops)[: rng.integers(2, 8)].tolist()
    waits = rng.permutation(np.arange(1, 60))[: len(chosen)] * 10
    commands, end = [], 0
    for op, wait in zip(chosen, waits.tolist(), strict=True):
        start, cycles = end + wait, int(rng.integers(1, 900))
        commands.append((op, "TIU", start, cycles))
        end = start + cycles
    moves = [("Load", "GDMA", int(rng.integers(end)), int(rng.integers(1, 500))) for _ in range(rng.integers(6))]
    everything = [*commands, *moves]
    return ([everything[place] for place in rng.permutation(len(everything))],)


# --- 8.3 --------------------------------------------------------------------------------------------------------------


def cache_bytes(layers, beams, capacity, width, shifts):
    row = beams * width * 2
    stored = capacity if shifts else 1
    return layers * 2 * (capacity - 1 + stored) * row


def cache_bytes_in_numbers(layers, beams, capacity, width, shifts):
    loaded = layers * 2 * beams * (capacity - 1) * width
    stored = layers * 2 * beams * width * (capacity if shifts else 1)
    return 2 * loaded + 2 * stored


def cache_bytes_of_arrays(layers, beams, capacity, width, shifts):
    shapes = [(beams, capacity - 1, width), (beams, capacity if shifts else 1, width)]
    return sum(np.empty(shape, np.float16).nbytes for shape in shapes * 2 * layers)


def cache_bytes_case_by_case(layers, beams, capacity, width, shifts):
    if shifts:
        return 4 * layers * beams * width * (2 * capacity - 1)
    return 4 * layers * beams * width * capacity


def draw_cache(rng):
    layers, beams, capacity, width = rng.integers(1, [33, 9, 449, 1281]).tolist()
    return layers, beams, capacity, width, bool(rng.integers(2))


EXERCISES = [
    Exercise(
        id="8.1",
        title="Bytes per cycle",
        hints=(
            "Which engine moves bytes? Look at its commands alone.",
            "An op has several commands of different lengths, which need not stand side by side.",
            "Add up the bytes and the cycles of an op's GDMA commands, each by itself; then divide.",
        ),
        solution=bytes_per_cycle,
        variants=[bytes_per_cycle_by_op, bytes_per_cycle_in_one_loop, bytes_per_cycle_by_groups],
        draw=draw_moves,
        draws=40,
        mistakes=[
            Mistake(mean_of_rates, "A mean of rates counts a short command as much as a long one: add up first."),
            Mistake(all_engines_cycles, "Only the GDMA's cycles count: the TIU moves nothing."),
            Mistake(
                lambda commands: {op: 1 / rate for op, rate in bytes_per_cycle(commands).items()},
                "That is cycles per byte.",
            ),
            Mistake(
                lambda commands: {**dict.fromkeys([c[0] for c in commands], 0.0), **bytes_per_cycle(commands)},
                "Leave out the ops that move nothing.",
            ),
            Mistake(whole_rates, "A rate has a fraction: leave it."),
            Mistake(neighbours_alone, "An op's commands need not be neighbours: collect them all."),
        ],
    ),
    Exercise(
        id="8.2",
        title="For which op the TIU waits",
        hints=(
            "The commands come in any order, and those of the GDMA are not the TIU's.",
            "Sort the TIU's commands by their start. A command ends `cycles` after it.",
            "A wait is from one command's end to the next one's start; the answer is the op of the later command.",
        ),
        solution=longest_wait,
        variants=[longest_wait_step_by_step, longest_wait_with_numpy, longest_wait_by_ends],
        draw=draw_work,
        draws=40,
        edges=[([("A", "TIU", 500, 900), ("B", "TIU", 1500, 5), ("C", "TIU", 1700, 1)],)],
        mistakes=[
            Mistake(before_the_wait, "That op ran before the wait; the one that had to wait comes after it."),
            Mistake(longest_between_starts, "The time in which a command runs is no wait: count from its end."),
            Mistake(longest_with_the_beginning, "Only stretches between two of the TIU's own commands count."),
            Mistake(in_the_list_s_order, "The list is in no order: sort by start."),
            Mistake(on_any_engine, "While the GDMA moves, the TIU may wait: look at the TIU's commands alone."),
            Mistake(sorted_in_place, "The caller's list must stay as it was: `sorted` gives a new one."),
        ],
    ),
    Exercise(
        id="8.3",
        title="What the caches cost",
        hints=(
            "There are two directions, loaded and stored, and two caches in each layer.",
            "capacity - 1 rows are loaded. How many are stored depends on `shifts`.",
            "A row has beams times width numbers, and a number in F16 has two bytes.",
        ),
        solution=cache_bytes,
        variants=[cache_bytes_in_numbers, cache_bytes_of_arrays, cache_bytes_case_by_case],
        draw=draw_cache,
        edges=[(1, 1, 1, 1, True), (1, 1, 1, 1, False), (1, 5, 448, 512, True)],
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
            Mistake(
                lambda layers, beams, capacity, width, shifts: cache_bytes(layers, beams, capacity, width, True),
                "Only a cache that shifts is stored whole.",
            ),
        ],
    ),
]
