"""Solutions of the exercises in 01_measure_a_baseline."""

from __future__ import annotations

import math
import statistics

from labsupport.course.exercises import Exercise, Mistake


def speedup_of_pairs(baseline, other):
    return statistics.median(a / b for a, b in zip(baseline, other, strict=True))


def speedup_by_logarithms(baseline, other):
    logs = sorted(math.log(a) - math.log(b) for a, b in zip(baseline, other, strict=True))
    middle = len(logs) // 2
    return math.exp(
        logs[middle] if len(logs) % 2 else math.log((math.exp(logs[middle - 1]) + math.exp(logs[middle])) / 2)
    )


def throughput(latency_seconds, batch_size):
    return batch_size / latency_seconds


def throughput_by_sample(latency_seconds, batch_size):
    return 1 / (latency_seconds / batch_size)


def runs_needed(relative_spread, wanted):
    return math.ceil((2 * relative_spread / wanted) ** 2)


def runs_needed_by_counting(relative_spread, wanted):
    runs = 1
    while 2 * relative_spread / math.sqrt(runs) > wanted:
        runs += 1
    return runs


def needs_fallback(avg_logprob, ratio, no_speech_prob, thresholds):
    failed = avg_logprob < thresholds["logprob"] or ratio > thresholds["ratio"]
    return failed and no_speech_prob <= thresholds["no_speech"]


def needs_fallback_step_by_step(avg_logprob, ratio, no_speech_prob, thresholds):
    if no_speech_prob > thresholds["no_speech"]:
        return False
    return max(thresholds["logprob"] - avg_logprob, ratio - thresholds["ratio"]) > 0


THRESHOLDS = {"logprob": -1.0, "ratio": 2.4, "no_speech": 0.6}
STRICT = {"logprob": -0.5, "ratio": 1.8, "no_speech": 0.9}

EXERCISES = [
    Exercise(
        id="1.1",
        title="Speed-up of pairs",
        hint="Divide each baseline time by the other's time of the same round, then take the median of those ratios.",
        solution=speedup_of_pairs,
        variant=speedup_by_logarithms,
        cases=[
            ([0.4, 0.5, 0.9], [0.2, 0.3, 0.3]),
            ([1.0, 4.0, 1.0, 9.0], [0.5, 2.5, 1.0, 2.0]),
            ([3.0, 1.0, 2.0, 8.0, 5.0], [1.0, 1.0, 1.0, 2.0, 1.0]),
        ],
        mistakes=[
            Mistake(
                lambda baseline, other: statistics.median(baseline) / statistics.median(other),
                "That is the ratio of the medians: it ignores which runs were made side by side.",
            ),
            Mistake(
                lambda baseline, other: sum(baseline) / sum(other),
                "Sums, like means, change with every disturbed run.",
            ),
            Mistake(
                lambda baseline, other: statistics.median(b / a for a, b in zip(baseline, other, strict=True)),
                "The other way round: a speed-up above 1 means that the baseline took longer.",
            ),
            Mistake(
                lambda baseline, other: statistics.mean(a / b for a, b in zip(baseline, other, strict=True)),
                "One disturbed pair changes a mean of ratios; take the median.",
            ),
        ],
    ),
    Exercise(
        id="1.2",
        title="Throughput of a batch",
        hint="Article D's batch of 8 takes 19.26 s and makes 8 samples: 0.42 samples a second.",
        solution=throughput,
        variant=throughput_by_sample,
        cases=[(19.26, 8), (10.48, 1), (0.5, 4)],
        mistakes=[
            Mistake(
                lambda latency_seconds, batch_size: 1 / latency_seconds,
                "Each call makes `batch_size` samples, not one.",
            ),
            Mistake(
                lambda latency_seconds, batch_size: latency_seconds / batch_size,
                "That is seconds for each sample; throughput is samples for each second.",
            ),
            Mistake(
                lambda latency_seconds, batch_size: batch_size * latency_seconds,
                "More time means less throughput: divide.",
            ),
        ],
    ),
    Exercise(
        id="1.3",
        title="How many runs are enough",
        hint="Solve 2 * relative_spread / sqrt(runs) <= wanted for runs, and round up: runs are whole.",
        solution=runs_needed,
        variant=runs_needed_by_counting,
        cases=[(0.3, 0.05), (0.1, 0.02), (0.47, 0.1), (0.02, 0.5)],
        mistakes=[
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
        ],
    ),
    Exercise(
        id="1.4",
        title="When to decode again",
        hint="One fault is enough, a low probability or a high ratio; but not where nobody seems to speak.",
        solution=needs_fallback,
        variant=needs_fallback_step_by_step,
        cases=[
            (-0.3, 1.5, 0.1, THRESHOLDS),
            (-1.3, 1.5, 0.1, THRESHOLDS),
            (-0.3, 3.1, 0.1, THRESHOLDS),
            (-1.3, 3.1, 0.8, THRESHOLDS),
            (-0.3, 1.5, 0.8, THRESHOLDS),
            (-0.8, 1.5, 0.7, STRICT),
        ],
        mistakes=[
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    avg_logprob < thresholds["logprob"] or ratio > thresholds["ratio"]
                ),
                "Where nobody seems to speak there is nothing to decode again: it is silence.",
            ),
            Mistake(
                lambda avg_logprob, ratio, no_speech_prob, thresholds: (
                    avg_logprob < thresholds["logprob"] and ratio > thresholds["ratio"]
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
        ],
    ),
]
