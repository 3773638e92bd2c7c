"""Solutions of the exercises in 04_find_the_bottleneck. They spoil the fun: try first."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter, defaultdict

from labsupport.base.errors import CourseError
from labsupport.course.exercises import Exercise, Mistake, Wrong

KINDS = ("matmul", "conv", "copy", "gelu", "softmax", "norm", "add", "sort", "cat", "roll")

# --- 4.1 --------------------------------------------------------------------------------------------------------------


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


def self_times_by_moment(calls):
    totals = dict.fromkeys((name for name, _, _ in calls), 0)
    moments = sorted({moment for _, *ends in calls for moment in ends})
    for begin, end in itertools.pairwise(moments):
        running = [(c[2] - c[1], number) for number, c in enumerate(calls) if c[1] <= begin and end <= c[2]]
        if running:
            totals[calls[min(running)[1]][0]] += end - begin  # the shortest of those that run is the innermost
    return totals


def self_times_by_caller(calls):
    totals = defaultdict(float)
    for name, start, end in calls:
        totals[name] += end - start
        around = [(b - a, caller) for caller, a, b in calls if a <= start and end <= b and (a, b) != (start, end)]
        if around:
            totals[min(around)[1]] -= end - start
    return totals


def self_times_recursively(calls):
    totals = {name: 0 for name, _, _ in calls}

    def add(inside):
        whole = 0
        while inside:
            (name, start, end), *inside = sorted(inside, key=lambda call: (call[1], -call[2]))
            children = [call for call in inside if call[1] < end]
            inside = [call for call in inside if call[1] >= end]
            own = end - start - add(children)  # which may change the same name's total
            totals[name] += own
            whole += end - start
        return whole

    add(list(calls))
    return totals


def without_siblings(calls):
    """Takes only the longest child off, not all of them."""
    totals = Counter()
    for name, start, end in calls:
        inside = [b - a for _, a, b in calls if start <= a and b <= end and (a, b) != (start, end)]
        totals[name] += end - start - max(inside, default=0)
    return dict(totals)


def without_all_inside(calls):
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


def longest_call_alone(calls):
    """One call of each name instead of their sum."""
    totals = {}
    for number in range(len(calls)):
        others = [(f"{i}", *c[1:]) for i, c in enumerate(calls)]
        totals[calls[number][0]] = max(totals.get(calls[number][0], 0), self_times(others)[f"{number}"])
    return totals


def in_the_order_given(calls):
    """Right only where the calls come in the order of their starts, a caller before what it calls."""
    totals, open_calls = Counter(), []
    for name, start, end in calls:
        while open_calls and open_calls[-1][1] <= start:
            open_calls.pop()
        totals[name] += end - start
        if open_calls:
            totals[open_calls[-1][0]] -= end - start
        open_calls.append((name, end))
    return dict(totals)


def outermost_alone(calls):
    """Only the calls that nothing encloses lose the time of what they call."""
    totals = Counter()
    for name, start, end in calls:
        around = [caller for caller, a, b in calls if a <= start and end <= b and (a, b) != (start, end)]
        totals[name] += end - start
        if len(around) == 1:
            totals[around[0]] -= end - start
    return dict(totals)


def draw_calls(rng):
    """Up to four levels of calls, shuffled; a call is shorter than its caller, may begin or end with it, and names
    come again. In whole milliseconds, or in eighths.
    """
    calls = list(draw_calls_between(rng, 0, int(rng.integers(8, 40)), int(rng.integers(1, 5))))
    rng.shuffle(calls)
    if rng.random() < 0.5:
        calls = [(name, start / 8, end / 8) for name, start, end in calls]
    return (calls,)


def draw_calls_between(rng, start, end, levels):
    while start < end and levels:
        begin = start + int(rng.integers(0, 3))
        stop = min(begin + int(rng.integers(1, 20)), end)
        if begin >= stop:
            return
        yield str(rng.choice(KINDS[:5])), begin, stop
        inner = begin + int(rng.integers(0, 2)), stop - int(rng.integers(0, 2))
        if inner == (begin, stop):  # what it calls is shorter than itself
            inner = begin + 1, stop
        yield from draw_calls_between(rng, *inner, levels - 1)
        start = stop


# --- 4.2 --------------------------------------------------------------------------------------------------------------


def out_of_proportion(measured, predicted):
    return max(measured, key=lambda kind: measured[kind] - predicted.get(kind, 0.0))


def out_of_proportion_sorted(measured, predicted):
    excess = [(milliseconds - predicted.get(kind, 0.0), kind) for kind, milliseconds in measured.items()]
    return sorted(excess)[-1][1]


def out_of_proportion_by_counters(measured, predicted):
    excess = Counter(measured)
    excess.subtract({kind: predicted[kind] for kind in predicted if kind in measured})
    return excess.most_common(1)[0][0]


def out_of_proportion_by_loop(measured, predicted):
    best, most = None, -math.inf
    for kind, milliseconds in measured.items():
        above = milliseconds - predicted.get(kind, 0)
        if above > most:
            best, most = kind, above
    return best


def draw_times(rng):
    """Measured and predicted milliseconds by kind: some without a prediction, some below it, one at least above it;
    no two excesses agree.
    """
    measured, predicted = {}, {"attention": 1000.0} if rng.random() < 0.3 else {}  # predicted, but it never ran
    kinds = rng.permutation(KINDS)[: rng.integers(1, 8)]
    for kind, over in zip(map(str, kinds), rng.permutation(60), strict=False):
        if rng.random() < 0.8:
            predicted[kind] = float(rng.integers(16, 400))
            measured[kind] = predicted[kind] + float(over) - 15
        else:
            measured[kind] = float(over) + 0.5
    if all(measured[kind] <= predicted.get(kind, 0) for kind in measured):
        return draw_times(rng)
    return measured, predicted


# --- 4.3 --------------------------------------------------------------------------------------------------------------


def seconds_a_call(saved, audio_seconds):
    return saved / (2 * math.ceil(audio_seconds / 30))


def seconds_a_call_counted(saved, audio_seconds):
    calls, covered = 0, 0
    while covered < audio_seconds:
        calls, covered = calls + 2, covered + 30
    return saved / calls


def seconds_a_call_by_floor(saved, audio_seconds):
    return saved / -(-audio_seconds // 30) / 2


def seconds_a_call_by_remainder(saved, audio_seconds):
    whole, rest = divmod(audio_seconds, 30)
    return saved / 2 / (whole + (rest > 0))


def draw_saving(rng):
    """Seconds in eighths; a third of the clips ends with a window, some a fraction of a second after one."""
    windows, rest = int(rng.integers(1, 40)), rng.choice([0, int(rng.integers(1, 8)), int(rng.integers(1, 240))])
    saved = float(rng.integers(1, 800)) / 8
    return saved, 30 * windows if rest == 0 else 30 * windows - 30 + float(rest) / 8


# --- 4.4 --------------------------------------------------------------------------------------------------------------


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


def find_planted_sorted(before, after):
    old, new = add_up(before), add_up(after)
    return sorted((new[name] - old[name], name) for name in new)[-1][1]


def find_planted_by_counters(before, after):
    growth = add_up(after)
    growth.subtract(add_up(before))
    return growth.most_common(1)[0][0]


def add_up(calls):
    sums = Counter()
    for name, milliseconds in calls:
        sums[name] += milliseconds
    return sums


def draw_traces(rng):
    """A good model's calls and a faulty one's, in eighths of a millisecond; the planted op grows most, clearly.

    Beside it: noise, a long op, a long call, a short op that grows many times over, an op that takes less time than
    before, and one that is called more often.
    """
    planted, long, tiny, faster, busy, single, *others = (str(name) for name in rng.permutation(KINDS))
    there = rng.random() < 0.6
    before = [(long, 15.0)] * int(rng.integers(8, 12)) + [(single, 70.0), (tiny, 0.125), (faster, 90.0), (busy, 8.0)]
    before += [(name, float(rng.integers(8, 80)) / 8) for name in others] + [(planted, 2.0)] * there
    after = [(name, ms + float(rng.integers(0, 8)) / 8) for name, ms in before if name not in (faster, busy)]
    after += [(tiny, 3.5), (faster, 15.0), *[(busy, 0.25)] * 40]
    grown, calls = float(rng.integers(160, 400)) / 8, int(rng.integers(1, 12))
    after += [(planted, grown / calls)] * calls
    for trace in (before, after):
        rng.shuffle(trace)
    return before, after


def run_with_find_planted(answer):
    """Profiles of tiny.en's encoder as it is and with one of three ops planted: the answer must name it."""
    fault = random.randrange(len(faults()))
    planted, before, after = real_traces(fault)
    found = answer(list(before), list(after))
    if found != planted:
        raise Wrong(f"of {len(after)} calls in the encoder's real trace, {found!r} is not the planted one.")
    calls = sum(name == planted for name, _ in after) - sum(name == planted for name, _ in before)
    grown = add_up(after)[planted] - add_up(before)[planted]
    return f"In the real trace of a faulty encoder you found {planted}: {calls} calls and {grown:.0f} ms more."


def faults():
    """Ops that change nothing in the end."""
    from labsupport.arrays import xp

    return (
        lambda y: xp.take(y, xp.indices(y.shape[2], y), axis=2),
        lambda y: xp.softmax(y, axis=-1),
        lambda y: xp.maximum(y, y),
    )


@functools.cache
def real_traces(fault):
    """The planted op's name, the good encoder's calls and the faulty one's: (name, milliseconds of self time) each.

    It is planted more and more often, until it has grown at least three times as much as any other op: then no noise
    of the machine can hide it.
    """
    from labsupport import profiling, whisper
    from labsupport.course import trials

    mel, before, times = trials.log_mel(), None, 50
    while times <= 3200:
        conv1d = functools.partial(slow_conv1d, waste=faults()[fault], times=times)
        models = [trials.load_plain().model, whisper.load(trials.MODEL, conv1d=conv1d).model]
        before, after = (
            [(event.name, event.self_ms) for event in profiling.profile(lambda m=m: m.encode(mel)).events]
            for m in models
        )
        growth, more = add_up(after), Counter(name for name, _ in after)
        growth.subtract(add_up(before))
        more.subtract(name for name, _ in before)
        (planted, most), (_, next_most) = growth.most_common(2)
        if most > 3 * next_most and more[planted] >= times:
            return planted, before, after
        times *= 4
    raise CourseError("This machine is too busy for a profile.", hint="close what else computes, and check again")


def slow_conv1d(x, weight, bias, stride, padding, waste, times):
    """The framework's convolution, and `waste` so many times; the result is the convolution's."""
    from labsupport.optim import conv1d

    y = useless = conv1d.framework(x, weight, bias, stride, padding)
    for _ in range(times):
        useless = waste(useless)
    return y + 0.0 * useless


EXERCISES = [
    Exercise(
        id="4.1",
        title="An op's self time",
        hints=(
            "Which calls must be taken off a call's time, and which of them are already off another one's?",
            "For each call, find the one directly around it. Sorted by start, the calls that are still open say which.",
            "A stack: drop the calls that have ended; the top one loses this call's time; put this call on top.",
        ),
        solution=self_times,
        variants=[self_times_by_moment, self_times_by_caller, self_times_recursively],
        draw=draw_calls,
        edges=[
            ([("add", 0, 3)],),
            ([("gelu", 2, 3), ("linear", 0, 5)],),
            ([("linear", 0, 6), ("addmm", 1, 5), ("copy", 2, 3)],),
            ([("linear", 0, 6), ("copy", 0, 2), ("copy", 4, 6)],),
            ([("linear", 0, 4), ("linear", 1, 3), ("linear", 5, 6)],),
        ],
        mistakes=[
            Mistake(whole_times, "A call's time holds that of the calls inside it: they would count twice."),
            Mistake(without_siblings, "A call may have several calls inside it: take them all off."),
            Mistake(
                without_all_inside,
                "Only the calls directly inside count: what lies deeper is taken off from those.",
            ),
            Mistake(in_the_order_given, "The calls come in any order: sort them, a caller before what it calls."),
            Mistake(outermost_alone, "A call that is itself inside another one loses the time of its own calls, too."),
            Mistake(longest_call_alone, "An op may be called several times: add its calls up."),
        ],
    ),
    Exercise(
        id="4.2",
        title="What is out of proportion",
        hints=(
            "Which time could be won from a kind, if it became as fast as its work allows?",
            "What counts is how far the measured time lies above the predicted one, in milliseconds.",
            "Take the difference for each measured kind, with 0 for a missing prediction; name the largest one's kind.",
        ),
        solution=out_of_proportion,
        variants=[out_of_proportion_sorted, out_of_proportion_by_counters, out_of_proportion_by_loop],
        draw=draw_times,
        draws=30,
        edges=[
            ({"matmul": 90.0, "gelu": 9.0}, {"matmul": 85.0, "gelu": 1.0}),
            ({"copy": 4.0, "conv": 11.5}, {"conv": 8.0}),
            ({"matmul": 60.0, "gelu": 9.0}, {"matmul": 85.0, "gelu": 1.0}),
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
                "That one is furthest below its prediction; the furthest above it is asked for.",
            ),
            Mistake(
                lambda measured, predicted: max(
                    measured, key=lambda kind: abs(measured[kind] - predicted.get(kind, 0.0))
                ),
                "A time below its prediction leaves nothing to win: mind the sign.",
            ),
            Mistake(
                lambda measured, predicted: max(
                    set(measured) & set(predicted), key=lambda kind: measured[kind] - predicted[kind]
                ),
                "A kind without a prediction should take no time at all: all of it could be saved.",
            ),
            Mistake(
                lambda measured, predicted: max(
                    {**measured, **predicted}, key=lambda kind: predicted.get(kind, 0.0) - measured.get(kind, 0.0)
                ),
                "That is the difference the other way round.",
            ),
        ],
    ),
    Exercise(
        id="4.3",
        title="What a convolution must have cost",
        hints=(
            "How often does the clip go through a convolution?",
            "Whisper works on windows of 30 s, the last filled up with silence; how many convolutions has each?",
            "Count the windows, a begun one as a whole; each has two convolutions; share the saving among them.",
        ),
        solution=seconds_a_call,
        variants=[seconds_a_call_counted, seconds_a_call_by_floor, seconds_a_call_by_remainder],
        draw=draw_saving,
        edges=[(25, 91), (25, 90), (1.5, 11), (12.0, 1800), (8.0, 60.25), (8.0, 50.0), (8.0, 0.5)],
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
            Mistake(
                lambda saved, audio_seconds: saved / (2 * (audio_seconds // 30 + 1)),
                "A clip that ends with a window needs no further one.",
            ),
            Mistake(
                lambda saved, audio_seconds: saved / (2 * max(1, math.ceil(int(audio_seconds) / 30))),
                "A fraction of a second after a window begins the next one, too.",
            ),
            Mistake(
                lambda saved, audio_seconds: saved / (2 * max(1, round(audio_seconds / 30))),
                "Rounded to the nearest, a short tail has no window.",
            ),
        ],
    ),
    Exercise(
        id="4.4",
        title="Find what was planted, in a real trace",
        hints=(
            "Which of the two traces alone cannot tell you anything?",
            "Calls must be added up by name first, in both: many short calls may be the fault, or a new op.",
            "For each op of the faulty model: its sum there, less its sum in the good one, 0 where it was not called.",
        ),
        solution=find_planted,
        variants=[find_planted_by_tables, find_planted_sorted, find_planted_by_counters],
        draw=draw_traces,
        edges=[
            ([("matmul", 9.0), ("add", 1.0)], [("matmul", 10.0), ("add", 4.0)]),
            ([("matmul", 9.0)], [("matmul", 10.0), ("sort", 2.0)]),
            ([("add", 2.0)], [("add", 1.5), ("add", 1.5), ("gelu", 0.5)]),
        ],
        trial=run_with_find_planted,
        mistakes=[
            Mistake(
                lambda before, after: max(add_up(after), key=add_up(after).get),
                "The longest op may have been that long before: compare with the model without the fault.",
            ),
            Mistake(
                lambda before, after: max(
                    add_up(after), key=lambda op: add_up(after)[op] / max(add_up(before)[op], 1e-9)
                ),
                "A ratio overrates small times: take the difference.",
            ),
            Mistake(
                lambda before, after: max(after, key=lambda call: call[1])[0],
                "The longest call is not the answer: many short ones may take longer together.",
            ),
            Mistake(
                lambda before, after: max(
                    add_up(after), key=lambda op: sum(c[0] == op for c in after) - sum(c[0] == op for c in before)
                ),
                "More calls need not take longer: add their times up.",
            ),
            Mistake(
                lambda before, after: max(add_up(after), key=lambda op: abs(add_up(after)[op] - add_up(before)[op])),
                "An op that takes less time than before is not the fault: mind the sign.",
            ),
            Mistake(
                lambda before, after: max(add_up(before), key=lambda op: add_up(after)[op] - add_up(before)[op]),
                "The planted op may be new: look at the ops of the faulty model.",
            ),
            Mistake(
                lambda before, after: min(add_up(after), key=lambda op: add_up(after)[op] - add_up(before)[op]),
                "That one has gained most; the one that lost most is asked for.",
            ),
        ],
    ),
]
