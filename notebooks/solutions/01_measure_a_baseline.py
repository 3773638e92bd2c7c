"""Solutions of the exercises in 01_measure_a_baseline. They spoil the fun: try first."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 1.1 --------------------------------------------------------------------------------------------------------------


def speedup_of_pairs(baseline, other):
    whole = [(a, b) for a, b in zip(baseline, other, strict=True) if not (math.isnan(a) or math.isnan(b))]
    return statistics.median(a / b for a, b in whole)


def speedup_with_numpy(baseline, other):
    return np.nanmedian(np.asarray(baseline) / np.asarray(other))


def speedup_by_quantiles(baseline, other):
    pairs = whole_rounds(baseline, other)
    return statistics.quantiles([a / b for a, b in zip(*pairs, strict=True)] * 2, n=2)[0]


def speedup_by_sorting(baseline, other):
    ratios = sorted(a / b for a, b in zip(baseline, other, strict=True) if not math.isnan(a + b))
    return (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2


def whole_rounds(baseline, other):
    """The times of both without the rounds in which a run failed."""
    pairs = [pair for pair in zip(baseline, other, strict=True) if not math.isnan(sum(pair))]
    return [a for a, _ in pairs], [b for _, b in pairs]


def trimmed_mean(baseline, other):
    ratios = sorted(a / b for a, b in zip(*whole_rounds(baseline, other), strict=True))
    return statistics.mean(ratios[1:-1] if len(ratios) > 2 else ratios)


def low_median(baseline, other):
    return statistics.median_low([a / b for a, b in zip(*whole_rounds(baseline, other), strict=True)])


def failed_rounds_too(baseline, other):
    return statistics.median(a / b for a, b in zip(baseline, other, strict=True))


def failed_runs_apart(baseline, other):
    there = [[seconds for seconds in times if seconds > 0] for times in (baseline, other)]
    return statistics.median(a / b for a, b in zip(*there, strict=False))


def failed_at_once(baseline, other):
    ratios = [a / b if a > 0 and b > 0 else 0.0 for a, b in zip(baseline, other, strict=True)]
    return statistics.median(ratios)


def in_place(baseline, other):
    for i, b in enumerate(other):
        baseline[i] /= b
    return np.nanmedian(baseline)


def draw_times(rng):
    """Both runs of some rounds are disturbed; in a third of the cases runs have failed, but one round is whole."""
    runs = int(rng.integers(1, 12))
    disturbed = np.where(rng.random(runs) < 0.3, rng.uniform(2, 9, runs), 1.0)
    baseline, other = rng.uniform(0.5, 4) * disturbed, rng.uniform(0.5, 2) * disturbed
    times = np.stack([each * rng.lognormal(0, 0.3, runs) for each in (baseline, other)]).round(4)
    if rng.integers(3) == 0:
        failed = rng.random((2, runs)) < 0.3
        failed[:, rng.integers(runs)] = False
        times[failed] = math.nan
    return tuple(times.tolist())


# --- 1.2 --------------------------------------------------------------------------------------------------------------


def measure_pairs(first, second, runs, clock):
    times = [], []
    for work in (first, second):
        work()  # warms up
    for _ in range(runs):
        for work, taken in zip((first, second), times, strict=True):
            start = clock()
            work()
            taken.append(clock() - start)
    return times


def measure_pairs_with_a_helper(first, second, runs, clock):
    def timed(work):
        start = clock()
        work()
        return clock() - start

    first(), second()
    pairs = [(timed(first), timed(second)) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def measure_pairs_as_rows(first, second, runs, clock):
    rows = np.zeros((2, runs + 1))
    for run in range(runs + 1):
        for row, work in enumerate((first, second)):
            rows[row, run] = -clock()
            work()
            rows[row, run] += clock()
    return rows[:, 1:]  # without the warm-up


def measure_pairs_by_marks(first, second, runs, clock):
    first()
    second()
    marks = [clock()]
    for turn in range(2 * runs):
        (second if turn % 2 else first)()
        marks.append(clock())
    taken = [after - before for before, after in itertools.pairwise(marks)]
    return taken[::2], taken[1::2]


def one_after_the_other(first, second, runs, clock):
    times = []
    for work in (first, second):
        work()
        times.append([])
        for _ in range(runs):
            start = clock()
            work()
            times[-1].append(clock() - start)
    return times


def without_warm_up(first, second, runs, clock):
    times = [], []
    for _ in range(runs):
        for work, taken in zip((first, second), times, strict=True):
            start = clock()
            work()
            taken.append(clock() - start)
    return times


def warm_up_counted(first, second, runs, clock):
    return without_warm_up(first, second, runs + 1, clock)


def from_the_start_of_the_round(first, second, runs, clock):
    first(), second()
    times = [], []
    for _ in range(runs):
        start = clock()
        for work, taken in zip((first, second), times, strict=True):
            work()
            taken.append(clock() - start)
    return times


def second_first(first, second, runs, clock):
    return measure_pairs(second, first, runs, clock)[::-1]


def means(first, second, runs, clock):
    return [statistics.mean(taken) for taken in measure_pairs(first, second, runs, clock)]


class Clock:
    """The seconds of a machine that gets slower, by `drift` a second."""

    def __init__(self, drift: float):
        self.now, self.drift = 0.0, drift

    def __call__(self):
        return self.now


class Work:
    """Takes its time on a clock: longer the first time, and more the later it is."""

    def __init__(self, clock: Clock, seconds: float):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self):
        self.calls += 1
        self.clock.now += self.seconds * (1 + self.clock.drift * self.clock.now + 5 * (self.calls == 1))


def draw_work(rng):
    clock = Clock(rng.uniform(0.01, 0.05))
    return *(Work(clock, float(rng.uniform(0.1, 2))) for _ in range(2)), int(rng.integers(1, 7)), clock


# --- 1.3 --------------------------------------------------------------------------------------------------------------


def runs_needed(relative_spread, wanted):
    return math.ceil((2 * relative_spread / wanted) ** 2)


def runs_needed_by_counting(relative_spread, wanted):
    runs = 1
    while 2 * relative_spread / math.sqrt(runs) > wanted:
        runs += 1
    return runs


def runs_needed_with_numpy(relative_spread, wanted):
    return np.ceil(np.square(2 * relative_spread / wanted))


def runs_needed_by_floor(relative_spread, wanted):
    return -int(-4 * relative_spread**2 // wanted**2)


def draw_spread(rng):
    """The number of runs before rounding is whole in binary fractions, which are exact, or far from a whole one."""
    if rng.integers(3) == 0:
        wanted = 0.5 ** rng.integers(3, 8)
        return float(wanted * rng.integers(1, 21) / 2), float(wanted)
    runs = rng.integers(0, 400) + rng.uniform(0.05, 0.95)
    wanted = rng.uniform(0.01, 0.2)
    return float(wanted * math.sqrt(runs) / 2), float(wanted)


# --- 1.4 --------------------------------------------------------------------------------------------------------------


def needs_fallback(avg_logprob, ratio, no_speech_prob, thresholds):
    failed = avg_logprob < thresholds["logprob"] or ratio > thresholds["ratio"]
    return failed and no_speech_prob <= thresholds["no_speech"]


def needs_fallback_step_by_step(avg_logprob, ratio, no_speech_prob, thresholds):
    if no_speech_prob > thresholds["no_speech"]:
        return False
    return max(thresholds["logprob"] - avg_logprob, ratio - thresholds["ratio"]) > 0


def needs_fallback_with_numpy(avg_logprob, ratio, no_speech_prob, thresholds):
    faults = np.array([thresholds["logprob"] - avg_logprob, ratio - thresholds["ratio"]]) > 0
    return np.any(faults) & ~np.greater(no_speech_prob, thresholds["no_speech"])


def needs_fallback_the_other_way(avg_logprob, ratio, no_speech_prob, thresholds):
    fine = avg_logprob >= thresholds["logprob"] and ratio <= thresholds["ratio"]
    return not (fine or no_speech_prob > thresholds["no_speech"])


def draw_text(rng):
    """Figures near their thresholds, on both sides."""
    thresholds = {
        "logprob": -round(rng.uniform(0.3, 2), 2),
        "ratio": round(rng.uniform(1.5, 3), 2),
        "no_speech": round(rng.uniform(0.2, 0.9), 2),
    }
    near = [limit + rng.choice([-1, 1]) * rng.uniform(0.01, 0.1) for limit in thresholds.values()]
    return *(round(float(figure), 3) for figure in near), thresholds


def run_needs_fallback(answer):
    """tiny.en on speech and on noise, with the answer in the place of its own decision."""
    from labsupport.course import trials
    from labsupport.speech import audio
    from labsupport.whisper.guards import Guards

    asked = []

    class LearnersGuards(Guards):
        def fails(self, hypothesis):
            thresholds = {"logprob": self.logprob_threshold, "ratio": 2.4, "no_speech": self.no_speech_threshold}
            figures = hypothesis.avg_logprob, hypothesis.compression_ratio, hypothesis.no_speech_prob
            asked.append((bool(answer(*figures, thresholds)), bool(needs_fallback(*figures, thresholds))))
            return asked[-1][0]

    noise = np.random.default_rng(0).normal(scale=0.05, size=5 * 16000).astype(np.float32)
    for name, samples in (("speech", audio.read(audio.clip(trials.CLIP).path)), ("noise", noise)):
        trials.load_plain().transcribe(samples, timestamps=False, guards=LearnersGuards(temperatures=(0.0, 0.2)))
        if any(said != right for said, right in asked):
            raise Wrong(f"a window of {name} is decoded again without need, or is not where it must be.")
    if not asked:
        raise Wrong("your function was never called.")
    return f"tiny.en asked it {len(asked)} times, on speech and on noise."


THRESHOLDS = {"logprob": -1.0, "ratio": 2.4, "no_speech": 0.6}

EXERCISES = [
    Exercise(
        id="1.1",
        title="Speed-up of pairs",
        hints=(
            "What was measured side by side belongs together: make one number of each round first.",
            "Divide in each round; of these ratios, take what one disturbed round cannot move.",
            "The baseline's time stands above: a speed-up above 1 says that it took longer. Of the ratios, the median.",
        ),
        solution=speedup_of_pairs,
        variants=[speedup_with_numpy, speedup_by_quantiles, speedup_by_sorting],
        draw=draw_times,
        edges=[
            ([0.4, 0.5, 0.9, 1.0], [0.2, 0.3, 0.3, 0.1]),
            ([1.5], [0.5]),
            ([0.4, math.nan, 0.9, 1.0, 0.6], [0.2, 0.3, 0.3, 0.4, math.nan]),
        ],
        mistakes=[
            Mistake(
                lambda baseline, other: np.divide(*map(statistics.median, whole_rounds(baseline, other))),
                "That is the ratio of the medians: it ignores which runs were made side by side.",
            ),
            Mistake(
                lambda baseline, other: np.divide(*map(sum, whole_rounds(baseline, other))),
                "Sums, like means, change with every disturbed run.",
            ),
            Mistake(
                lambda baseline, other: speedup_of_pairs(other, baseline),
                "The other way round: a speed-up above 1 means that the baseline took longer.",
            ),
            Mistake(
                lambda baseline, other: np.divide(*whole_rounds(baseline, other)).mean(),
                "One disturbed pair changes a mean of ratios; take the median.",
            ),
            Mistake(failed_rounds_too, "A failed run has no time: leave its round out. Nothing compares with `nan`."),
            Mistake(failed_runs_apart, "With a failed run goes the other run of its round, or pairs no longer match."),
            Mistake(failed_at_once, "A round with a failed run has no ratio, not a ratio of zero: leave it out."),
            Mistake(trimmed_mean, "A trimmed mean still moves with what is left; take the median."),
            Mistake(low_median, "With an even number of rounds, the median is in the middle of the two in the middle."),
            Mistake(in_place, "The caller's times must stay as they were: make new numbers."),
        ],
    ),
    Exercise(
        id="1.2",
        title="Measure in turns",
        hints=(
            "A machine gets slower and faster by itself. How can both variants get the same share of that?",
            "Call each once before, untimed; then in every round first the one, then the other.",
            "Read `clock` before and after each single call; collect two lists of differences.",
        ),
        solution=measure_pairs,
        variants=[measure_pairs_with_a_helper, measure_pairs_as_rows, measure_pairs_by_marks],
        draw=draw_work,
        mistakes=[
            Mistake(one_after_the_other, "All of one, then all of the other: a drift of the machine hits the second."),
            Mistake(without_warm_up, "The first call is slower than the others: call each once before, untimed."),
            Mistake(warm_up_counted, "The warm-up's time must not be among those that count."),
            Mistake(from_the_start_of_the_round, "The second's time begins when the first has ended."),
            Mistake(second_first, "In every round `first` is called before `second`."),
            Mistake(means, "All times are wanted, a list for each: their spread is needed, too."),
        ],
    ),
    Exercise(
        id="1.3",
        title="How many runs are enough",
        hints=(
            "More runs make the error smaller. By how much, if there are four times as many?",
            "Set two standard errors equal to what is wanted, and solve for the number of runs.",
            "The root of the runs stands below, so square the quotient. Runs are whole; a few too few are not enough.",
        ),
        solution=runs_needed,
        variants=[runs_needed_by_counting, runs_needed_with_numpy, runs_needed_by_floor],
        draw=draw_spread,
        draws=40,
        edges=[(0.25, 0.125), (0.125, 0.25)],
        mistakes=[
            Mistake(
                lambda relative_spread, wanted: int((2 * relative_spread / wanted) ** 2) + 1,
                "Where it comes out even, so many runs are enough.",
            ),
            Mistake(
                lambda relative_spread, wanted: math.ceil(2 * relative_spread / wanted),
                "The error falls with the square root of the runs: square it.",
            ),
            Mistake(
                lambda relative_spread, wanted: math.floor((2 * relative_spread / wanted) ** 2),
                "Rounded down, the error is still a little too large.",
            ),
            Mistake(
                lambda relative_spread, wanted: math.ceil((relative_spread / wanted) ** 2),
                "Two standard errors, so that the true mean lies inside 19 times out of 20.",
            ),
            Mistake(
                lambda relative_spread, wanted: (2 * relative_spread / wanted) ** 2,
                "Nobody can run a part of a run: round up.",
            ),
            Mistake(
                lambda relative_spread, wanted: round((2 * relative_spread / wanted) ** 2),
                "Rounded to the nearest, the error may still be a little too large.",
            ),
        ],
    ),
    Exercise(
        id="1.4",
        title="When to decode again, in the model",
        hints=(
            "There are two faults that a text can have, and one reason to leave it as it is.",
            "One fault is enough, a low probability or a high ratio; but not where nobody seems to speak.",
            "Compare each figure with its own threshold: two of them with `or`, the third with `and`.",
        ),
        solution=needs_fallback,
        variants=[needs_fallback_step_by_step, needs_fallback_with_numpy, needs_fallback_the_other_way],
        draw=draw_text,
        draws=60,
        edges=[
            (-0.3, 1.5, 0.1, THRESHOLDS),
            (-1.3, 1.5, 0.1, THRESHOLDS),
            (-0.3, 3.1, 0.1, THRESHOLDS),
            (-1.3, 3.1, 0.8, THRESHOLDS),
            (-0.3, 1.5, 0.8, THRESHOLDS),
            (-1.0, 1.5, 0.1, THRESHOLDS),
            (-0.3, 2.4, 0.1, THRESHOLDS),
            (-1.3, 1.5, 0.6, THRESHOLDS),
        ],
        trial=run_needs_fallback,
        mistakes=[
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    avg_logprob < thresholds["logprob"] or ratio > thresholds["ratio"]
                ),
                "Where nobody seems to speak there is nothing to decode again: it is silence.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    avg_logprob < thresholds["logprob"]
                    and ratio > thresholds["ratio"]
                    and no_speech_prob <= thresholds["no_speech"]
                ),
                "One of the two faults is enough.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    (avg_logprob < -1.0 or ratio > 2.4) and no_speech_prob <= 0.6
                ),
                "Take the thresholds that are given: they can be changed.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: no_speech_prob > thresholds["no_speech"],
                "That is when it may be silence; a text is decoded again where somebody speaks.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    (avg_logprob > thresholds["logprob"] or ratio > thresholds["ratio"])
                    and no_speech_prob <= thresholds["no_speech"]
                ),
                "A log-probability is bad when it is low, and it is negative.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    avg_logprob < thresholds["logprob"]
                    or (ratio > thresholds["ratio"] and no_speech_prob <= thresholds["no_speech"])
                ),
                "`and` binds more than `or`: silence excuses both faults.",
            ),
        ],
    ),
]
