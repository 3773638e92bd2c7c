"""Solutions of the exercises in 04_find_the_bottleneck."""

from __future__ import annotations

import math
from collections import Counter

from labsupport.course.exercises import Exercise, Mistake


def self_times(calls):
    totals, open_calls = Counter(), []
    for name, start, end in sorted(calls, key=lambda call: (call[1], -call[2])):
        while open_calls and open_calls[-1][1] <= start:
            open_calls.pop()
        totals[name] += end - start
        if open_calls:
            totals[open_calls[-1][0]] -= end - start
        open_calls.append((name, end))
    return dict(totals)


def self_times_by_millisecond(calls):
    totals = {name: 0 for name, _, _ in calls}
    for moment in range(max(end for _, _, end in calls)):
        running = [(end - start, name) for name, start, end in calls if start <= moment < end]
        if running:
            totals[min(running)[1]] += 1  # the shortest of those that run is the innermost
    return totals


def self_times_without_siblings(calls):
    """Takes only the longest child off, not all of them."""
    totals = Counter()
    for name, start, end in calls:
        inside = [b - a for _, a, b in calls if start <= a and b <= end and (a, b) != (start, end)]
        totals[name] += end - start - max(inside, default=0)
    return dict(totals)


def self_times_without_all_inside(calls):
    """Takes the children off, and the children's children once more."""
    totals = Counter()
    for name, start, end in calls:
        inside = [b - a for _, a, b in calls if start <= a and b <= end and (a, b) != (start, end)]
        totals[name] += end - start - sum(inside)
    return dict(totals)


def whole_times(calls):
    totals = Counter()
    for name, start, end in calls:
        totals[name] += end - start
    return dict(totals)


def out_of_proportion(measured, predicted):
    return max(measured, key=lambda kind: measured[kind] - predicted.get(kind, 0.0))


def out_of_proportion_sorted(measured, predicted):
    excess = [(milliseconds - predicted.get(kind, 0.0), kind) for kind, milliseconds in measured.items()]
    return sorted(excess)[-1][1]


def seconds_a_call(saved, audio_seconds):
    return saved / (2 * math.ceil(audio_seconds / 30))


def seconds_a_call_counted(saved, audio_seconds):
    calls, covered = 0, 0
    while covered < audio_seconds:
        calls, covered = calls + 2, covered + 30
    return saved / calls


def find_planted(before, after):
    growth = Counter()
    for name, milliseconds in after:
        growth[name] += milliseconds
    for name, milliseconds in before:
        growth[name] -= milliseconds
    return max(growth, key=growth.get)


def find_planted_by_tables(before, after):
    def total(calls, op):
        return sum(milliseconds for name, milliseconds in calls if name == op)

    return max({name for name, _ in after}, key=lambda op: total(after, op) - total(before, op))


NESTED = [("linear", 0, 40), ("t", 2, 4), ("addmm", 5, 38), ("copy", 6, 16), ("linear", 50, 60), ("addmm", 52, 60)]
DEEP = [("transcribe", 0, 100), ("encoder", 10, 70), ("attention", 15, 45), ("softmax", 20, 30), ("decoder", 70, 95)]
LEAVES = [("matmul", 0, 7), ("add", 7, 9), ("matmul", 12, 20)]

PLANTED = (
    [("matmul", 40.0), ("matmul", 42.0), ("gelu", 3.0), ("add", 1.0), ("conv", 9.0)],
    [("matmul", 41.0), ("matmul", 43.0), ("gelu", 3.0), ("add", 5.0), ("add", 4.0), ("conv", 9.5), ("sort", 0.4)],
)
NEW_OP = (
    [("matmul", 30.0), ("softmax", 20.0), ("cat", 0.1)],
    [("matmul", 31.0), ("softmax", 21.0), ("cat", 2.0), ("roll", 6.0), ("roll", 6.0), ("roll", 6.0)],
)
MANY_SMALL = (
    [("addmm", 100.0), ("copy", 2.0), ("copy", 2.0), ("gelu", 0.01)],
    [("addmm", 104.0), ("gelu", 0.5), *[("copy", 1.5)] * 8],
)
ONE_LONG = (
    [*[("matmul", 10.0)] * 5, ("sort", 12.0)],
    [*[("matmul", 10.0)] * 5, ("sort", 12.1), *[("gelu", 2.0)] * 4],
)


def totals(calls):
    sums = Counter()
    for name, milliseconds in calls:
        sums[name] += milliseconds
    return sums


EXERCISES = [
    Exercise(
        id="4.1",
        title="An op's self time",
        hint="Take from each call the time of the calls directly inside it; a stack of the open calls finds those.",
        solution=self_times,
        variant=self_times_by_millisecond,
        cases=[(LEAVES,), (NESTED,), (DEEP,), (NESTED[::-1],)],
        mistakes=[
            Mistake(whole_times, "A call's time holds that of the calls inside it: they would count twice."),
            Mistake(self_times_without_siblings, "A call may have several calls inside it: take them all off."),
            Mistake(
                self_times_without_all_inside,
                "Only the calls directly inside count: what lies deeper is taken off from those.",
            ),
        ],
    ),
    Exercise(
        id="4.2",
        title="What is out of proportion",
        hint="Subtract the predicted time of each kind from the measured one: the largest excess could be saved.",
        solution=out_of_proportion,
        variant=out_of_proportion_sorted,
        cases=[
            ({"matmul": 200.0, "copy": 60.0, "gelu": 9.0}, {"matmul": 180.0, "copy": 5.0, "gelu": 1.0}),
            ({"matmul": 90.0, "attention": 40.0, "norm": 3.0}, {"matmul": 60.0, "attention": 30.0, "norm": 0.1}),
            ({"conv": 25.0, "matmul": 30.0, "other": 4.0}, {"conv": 1.0, "matmul": 28.0}),
        ],
        mistakes=[
            Mistake(
                lambda measured, predicted: max(measured, key=measured.get), "The longest may be as fast as can be."
            ),
            Mistake(
                lambda measured, predicted: max(measured, key=lambda kind: measured[kind] / predicted.get(kind, 1e-9)),
                "A ratio overrates small times: ten times too slow matters little if it takes a millisecond.",
            ),
            Mistake(
                lambda measured, predicted: min(measured, key=lambda kind: measured[kind] - predicted.get(kind, 0.0)),
                "That one is closest to its prediction; the furthest above it is asked for.",
            ),
        ],
    ),
    Exercise(
        id="4.3",
        title="What a convolution must have cost",
        hint="Whisper works on windows of 30 s, the last filled up with silence; each goes through two convolutions.",
        solution=seconds_a_call,
        variant=seconds_a_call_counted,
        cases=[(25, 91), (25, 90), (1.5, 11), (12.0, 1800)],
        mistakes=[
            Mistake(
                lambda saved, audio_seconds: saved / math.ceil(audio_seconds / 30),
                "The encoder begins with two convolutions, not one.",
            ),
            Mistake(
                lambda saved, audio_seconds: saved / (2 * max(1, audio_seconds // 30)),
                "The tail needs a window of its own: round up.",
            ),
            Mistake(
                lambda saved, audio_seconds: saved / (2 * audio_seconds / 30),
                "There is no part of a window: a short one is filled up with silence, and costs the same.",
            ),
            Mistake(lambda saved, audio_seconds: saved / 2, "Two convolutions for each window of 30 s, not in all."),
        ],
    ),
    Exercise(
        id="4.4",
        title="Find what was planted",
        hint="Add up each op's calls in both lists. The planted op is the one whose sum grew most.",
        solution=find_planted,
        variant=find_planted_by_tables,
        cases=[PLANTED, NEW_OP, MANY_SMALL, ONE_LONG],
        mistakes=[
            Mistake(
                lambda before, after: max(totals(after), key=totals(after).get),
                "The longest op may have been that long before: compare with the model without the fault.",
            ),
            Mistake(
                lambda before, after: max(
                    totals(after), key=lambda op: totals(after)[op] / max(totals(before)[op], 1e-9)
                ),
                "A ratio overrates small times: take the difference.",
            ),
            Mistake(
                lambda before, after: max(after, key=lambda call: call[1])[0],
                "The longest call is not the answer: many short ones may take longer together.",
            ),
        ],
    ),
]
