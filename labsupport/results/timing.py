"""Measuring: variants timed in turns in one process, medians and spread, and whether a gain is noise."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from labsupport.base.errors import MeasureError
from labsupport.base.tables import drop_empty_columns, format_bytes, format_seconds, markdown_table, text_table
from labsupport.machine.backend import loaded_framework, on_ascend, synchronise
from labsupport.results.load import Load, look_before, share_of_others, take_snapshot
from labsupport.results.memory import peak_memory
from labsupport.results.rows import BUSY, TOO_NOISY, Row, is_too_wide, record


@dataclass(frozen=True)
class Measurement:
    """One variant's runs: wall and CPU seconds of each, and the peak memory of a run of its own, in bytes above the
    start (None where it cannot be measured). CPU time counts all threads. `audio_seconds` and `items` are what one run
    worked through.
    """

    name: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    peak_bytes: int | None
    audio_seconds: float | None = None
    items: float | None = None

    @property
    def median(self) -> float:
        """Seconds of wall time."""
        return statistics.median(self.wall)

    @property
    def spread(self) -> float:
        """Interquartile range of the wall times, in seconds."""
        return interquartile_range(self.wall)

    @property
    def cpu_median(self) -> float:
        """Seconds of CPU time, all threads together."""
        return statistics.median(self.cpu)

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds of work per second of audio; below 1 keeps up with speech."""
        return self.median / self.audio_seconds if self.audio_seconds else None

    @property
    def throughput(self) -> float | None:
        """Items per second."""
        return self.items / self.median if self.items else None


@dataclass(frozen=True)
class Ratio:
    """How many times faster one variant is than another: the median over the pairs of runs, and its interval.

    The interval is the 95 % one of Student's t on the logarithms of the pairs' ratios, or the pairs' own interquartile
    range where that is wider; a few noisy runs give a wide interval, not a false gain. `load`: the comparison's.
    """

    value: float
    low: float
    high: float
    load: Load | None = None

    @property
    def within_noise(self) -> bool:
        """No difference was found: the interval holds 1."""
        return self.low <= 1 <= self.high

    def __str__(self) -> str:
        if is_too_wide(self.value, self.low, self.high):
            return f"{TOO_NOISY} ({self.low:.2f} to {self.high:.2f} times)"
        if self.within_noise:
            return f"no difference ({self.low:.2f} to {self.high:.2f} times)"
        return f"{self.value:.2f} times ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """The variants' measurements by name, in the order given; the first is the baseline. `load`: what others did."""

    measurements: dict[str, Measurement]
    load: Load | None = None

    def __getitem__(self, name: str) -> Measurement:
        if name not in self.measurements:
            raise MeasureError(f"No variant {name!r} was measured.", hint=f"Choose of: {', '.join(self.measurements)}.")
        return self.measurements[name]

    def speedup(self, baseline: str, other: str) -> Ratio:
        """How many times faster `other` is than `baseline`, from the runs in pairs."""
        return replace(paired_ratio(self[baseline].wall, self[other].wall), load=self.load)

    def record(self, what: str, **details) -> list[Row]:
        """Writes a row for each variant ("what: name", median seconds, spread, peak memory) and returns them.

        All but the first bring their gain against the first, from the runs in pairs.
        """
        rows = []
        baseline = next(iter(self.measurements))
        for m in self.measurements.values():
            measured: dict[str, Any] = {"spread": m.spread, "runs": len(m.wall), "peak_bytes": m.peak_bytes}
            measured |= load_fields(self.load)
            if m.name != baseline:
                gain = self.speedup(baseline, m.name)
                measured |= {"gain": (gain.value, gain.low, gain.high), "against": baseline}
            rows.append(record(f"{what}: {m.name}", m.median, "s", **measured, **details))
        return rows

    def table(self) -> list[list[str]]:
        """The heading and one line of texts a variant; a column that no variant fills is left out."""
        measured = list(self.measurements.values())
        baseline, *others = self.measurements
        columns = {
            "variant": list(self.measurements),
            "median": [format_seconds(m.median) for m in measured],
            "spread": [format_seconds(m.spread) for m in measured],
            "CPU time": [format_seconds(m.cpu_median) for m in measured],
            "peak memory": ["" if m.peak_bytes is None else format_bytes(m.peak_bytes) for m in measured],
            "RTF": [f"{m.rtf:.3f}" if m.rtf else "" for m in measured],
            "items/s": [f"{m.throughput:.3g}" if m.throughput else "" for m in measured],
            f"times as fast as {baseline}": ["", *(str(self.speedup(baseline, name)) for name in others)],
        }
        return drop_empty_columns(columns)

    def warning(self) -> str:
        """One sentence on a machine that did other work meanwhile; empty where it did not."""
        shares = [share or 0.0 for share in (self.load.before, self.load.during)] if self.load else [0.0, 0.0]
        if max(shares) <= BUSY:
            return ""
        return f"Other processes used {shares[0]:.0%} of the processors before and {shares[1]:.0%} during these runs."

    def _repr_markdown_(self) -> str:
        return "\n\n".join(filter(None, [markdown_table(self.table()), self.warning()]))

    def __str__(self) -> str:
        return "\n".join(filter(None, [text_table(self.table()), self.warning()]))


def compare(
    variants: Mapping[str, Callable[[], object]],
    runs: int = 5,
    warmup: int = 1,
    audio_seconds: float | None = None,
    items: float | None = None,
    check: Callable[[Any, Any], object] | None = None,
) -> Comparison:
    """Times the variants in turns (A B A B ...), so that whatever slows the machine down slows them all.

    Every timed run starts after a garbage collection, has the collector off, and ends when the device has finished.
    Peak memory is measured in one more run of each, after the timed ones. One variant alone is fine.

    Args:
        variants: name to a function of no arguments that does the work and returns its result.
        runs: timed runs of each, 2 at least.
        warmup: runs of each before, not counted.
        audio_seconds: seconds of audio that one run works through; gives the RTF.
        items: things that one run works through (clips, tokens, samples); gives the throughput.
        check: called after each round with the first variant's result and each other's; False or an AssertionError
            means that they differ, so `operator.eq` and `numpy.testing.assert_allclose` both do.

    `LAB_MOST_RUNS` caps `runs`, counts the run for the memory as one of them, and leaves the warm-up out, where
    notebooks are tested, not measured.

    MeasureError: no variants, too few runs, a variant that raised, or one whose result `check` finds different.
    """
    if not variants:
        raise MeasureError("There is nothing to measure.", hint="Give at least one variant: {name: function}.")
    if runs < 2 or warmup < 0:
        raise MeasureError(f"{runs} runs after {warmup} to warm up cannot be measured.", hint="Take 2 runs or more.")
    most = os.environ.get("LAB_MOST_RUNS")
    if most:
        runs, warmup = min(runs, int(most)) - 1, 0
    with collector_off():
        for name, work in variants.items():
            for _ in range(warmup):
                call(name, work)
        before, start = look_before(), take_snapshot()
        times = time_in_turns(variants, runs, check)
        during = share_of_others(start, take_snapshot())
        last = {name: run_for_peak(name, work) for name, work in variants.items() if most or can_measure_peak()}
    measured = {}
    for name in variants:
        peak, seconds = last.get(name, (None, None))
        wall, cpu = zip(*[*times[name], seconds] if most else times[name], strict=True)
        measured[name] = Measurement(name, wall, cpu, peak, audio_seconds, items)
    return Comparison(measured, Load(before, during))


def load_fields(load: Load | None) -> dict[str, float | None]:
    """The two fields of a row; none where no load was measured."""
    return {"load_before": load.before, "load_during": load.during} if load else {}


def can_measure_peak() -> bool:
    """Not under MindSpore on a CPU, whose pool never gives memory back."""
    return loaded_framework() != "mindspore" or on_ascend()


def run_for_peak(name: str, work: Callable[[], object]) -> tuple[int | None, tuple[float, float]]:
    """Peak memory of one run in bytes, where it can be measured, and its wall and CPU seconds."""
    if not can_measure_peak():
        return None, time_once(name, work)[:2]
    timed: list[tuple[float, float]] = []
    _, peak = peak_memory(lambda: timed.append(time_once(name, work)[:2]))
    return peak, timed[0]


def time_in_turns(variants: Mapping, runs: int, check: Callable | None) -> dict[str, list[tuple[float, float]]]:
    """For each variant the (wall, CPU) seconds of its runs, done A B A B ...; arguments as in `compare`."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for run in range(1, runs + 1):
        results = {}  # of this round, only if compared: a result that stays would count as the next run's memory
        for name, work in variants.items():
            wall, cpu, result = time_once(name, work)
            times[name].append((wall, cpu))
            if check:
                results[name] = result
            del result
        if check:
            check_results(results, check, run)
    return times


def call(name: str, work: Callable[[], object]) -> object:
    """Runs the work to its end on the device; any failure of it is raised again under the variant's name."""
    try:
        result = work()
        synchronise()
        return result
    except Exception as error:
        raise MeasureError(f"The variant {name!r} failed: {type(error).__name__}: {error}", where=name) from error


def time_once(name: str, work: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, CPU seconds and the result of one run, which starts without garbage."""
    gc.collect()
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(name, work)
    return time.perf_counter() - wall, time.process_time() - cpu, result


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Garbage is collected in the block only when asked for, and then fast.

    What lives already is set aside: with a framework loaded a full collection takes a tenth of a second.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def check_results(results: dict[str, object], check: Callable, run: int) -> None:
    """Raises MeasureError, naming variant and run, if `check` finds a result different from the first variant's."""
    first = next(iter(results))
    for name in list(results)[1:]:
        text = f"In run {run}, {name!r} gave another result than {first!r}"
        try:
            same = check(results[first], results[name])
        except AssertionError as error:
            raise MeasureError(f"{text}: {error}", where=name) from error
        if same is not None and not same:
            raise MeasureError(f"{text}.", where=name)


def interquartile_range(values: tuple[float, ...] | list[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def paired_ratio(baseline: tuple[float, ...], other: tuple[float, ...]) -> Ratio:
    """The ratio of two variants' times, run by run; see `Ratio`."""
    from scipy.special import stdtrit

    logs = [math.log(a / b) for a, b in zip(baseline, other, strict=True)]
    middle, mean, degrees = statistics.median(logs), statistics.fmean(logs), len(logs) - 1
    half = float(stdtrit(degrees, 0.975)) * statistics.stdev(logs) / math.sqrt(len(logs))
    quartiles = interquartile_range(logs)
    low, high = min(mean - half, middle - quartiles), max(mean + half, middle + quartiles)
    return Ratio(math.exp(middle), math.exp(low), math.exp(high))
