"""Workloads of known time, noise, drift and allocation."""

from __future__ import annotations

import gc
import operator
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import MeasureError
from labsupport.results import rows, timing
from labsupport.results.timing import Ratio, compare, paired_ratio

MEGABYTE = 1_000_000


class Clock:
    """A clock that only planted work moves, so that a test of the statistics does not depend on the machine."""

    def __init__(self):
        self.now = 0.0

    def work(self, seconds, result=None):
        """A variant that takes as long as the next call of `seconds` says."""

        def run():
            self.now += seconds()
            return result

        return run


def plant_load(monkeypatch, before, during):
    monkeypatch.setattr(timing, "look_before", lambda: before)
    monkeypatch.setattr(timing, "share_of_others", lambda start, end: during)


@pytest.fixture
def clock(monkeypatch):
    planted = Clock()
    plant_load(monkeypatch, 0.0, 0.0)
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(perf_counter=lambda: planted.now, process_time=lambda: 2 * planted.now)
    )
    return planted


# --- time


def test_median_spread_rtf_and_throughput_of_planted_times(clock):
    lengths = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0])  # to warm up, five timed runs, the run for memory
    result = compare({"planted": clock.work(lambda: next(lengths))}, runs=5, audio_seconds=10.0, items=6)["planted"]
    assert result.wall == pytest.approx((1.0, 2.0, 3.0, 4.0, 5.0))
    assert result.cpu == pytest.approx((2.0, 4.0, 6.0, 8.0, 10.0))
    assert (result.median, result.cpu_median, result.spread) == pytest.approx((3.0, 6.0, 2.0))
    assert (result.rtf, result.throughput) == pytest.approx((0.3, 2.0))


def test_rtf_and_throughput_are_absent_unless_asked_for(clock):
    result = compare({"planted": clock.work(lambda: 1.0)})
    assert result["planted"].rtf is None
    assert result["planted"].throughput is None
    assert "RTF" not in str(result)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Ratio(3.14, 2.92, 3.47), "3.14 times (2.92 to 3.47)"),
        (Ratio(1.02, 0.97, 1.08), "no difference (0.97 to 1.08 times)"),
        (Ratio(4.0, 2.0, 5.9), "4.00 times (2.00 to 5.90)"),
        (Ratio(4.0, 2.0, 6.1), "too noisy to judge, run again (2.00 to 6.10 times)"),
        (Ratio(4.08, 1.45, 8.10), "too noisy to judge, run again (1.45 to 8.10 times)"),  # once recorded without a word
        (Ratio(1.21, 0.35, 4.17), "too noisy to judge, run again (0.35 to 4.17 times)"),
    ],
)
def test_a_ratio_says_its_interval_and_whether_it_can_be_judged(ratio, text):
    assert str(ratio) == text


def test_variants_take_turns():
    calls = []
    compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3, warmup=2)
    assert "".join(calls) == "aabb" + "ababab" + "ab"


@pytest.mark.parametrize(("most", "calls"), [("2", "abab"), ("9", "ababab")])
def test_where_a_notebook_is_tested_its_runs_are_few_and_none_is_to_warm_up(monkeypatch, most, calls):
    monkeypatch.setenv("LAB_MOST_RUNS", most)
    made = []
    compared = compare({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, runs=3, warmup=2)
    assert "".join(made) == calls
    assert len(compared["a"].wall) == len(calls) // 2  # the run for the memory is one of them
    assert compared["a"].peak_bytes is not None


def test_real_sleep_is_timed_and_uses_no_cpu():
    result = compare({"short": lambda: time.sleep(0.05), "long": lambda: time.sleep(0.15)}, runs=3)
    assert 0.05 <= min(result["short"].wall) < 0.14
    assert min(result["short"].wall) < min(result["long"].wall)
    assert result["short"].cpu_median < 0.05


def test_real_loop_uses_cpu_time():
    def spin():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert 0.05 <= compare({"spin": spin}, runs=2)["spin"].cpu_median < 0.2


def test_collector_is_off_in_a_timed_run_and_back_after_it():
    enabled = []
    compare({"look": lambda: enabled.append(gc.isenabled())}, runs=2, warmup=0)
    assert enabled[:2] == [False, False]
    assert gc.isenabled()


def test_collector_is_back_after_a_failure():
    with pytest.raises(MeasureError):
        compare({"bad": lambda: 1 / 0}, warmup=0)
    assert gc.isenabled()


# --- is it a difference?


def test_double_work_is_found_through_noise():
    noise = random.Random(0)
    for _ in range(50):
        slow, fast = ([work * noise.uniform(0.9, 1.1) for _ in range(5)] for work in (2.0, 1.0))
        ratio = paired_ratio(slow, fast)
        assert not ratio.within_noise
        assert ratio.value == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("runs", [2, 3, 5, 20])
def test_identical_work_is_mostly_no_difference(runs):
    noise = random.Random(1)
    pairs = [[[noise.lognormvariate(0, 0.2) for _ in range(runs)] for _ in "ab"] for _ in range(500)]
    found = sum(not paired_ratio(a, b).within_noise for a, b in pairs)
    assert found <= 35, "of 500, a 95 % interval lets some 25 through"


def test_real_identical_work_is_no_difference_in_most_repeats():
    def spin():
        return sum(range(20_000))

    same = [compare({"a": spin, "b": spin}, runs=5).speedup("a", "b").within_noise for _ in range(6)]
    assert sum(same) >= 3


def test_drift_hits_both_variants_alike(clock):
    def slow_down(factor):
        return clock.work(lambda: factor * (1 + clock.now / 20))

    result = compare({"slow": slow_down(2.0), "fast": slow_down(1.0)}, runs=8)
    assert result["fast"].wall[-1] > 2 * result["fast"].wall[0], "the planted machine must slow down"
    assert result.speedup("slow", "fast").value == pytest.approx(2.0, rel=0.15)
    assert not result.speedup("slow", "fast").within_noise


def test_gain_smaller_than_the_spread_is_none():
    baseline = tuple(1.0 + 0.2 * (i % 2) for i in range(10_000))  # so many pairs that the mean is known to a hair
    other = tuple(0.99 + 0.2 * (i // 2 % 2) for i in range(10_000))
    assert paired_ratio(baseline, other).within_noise


def test_identical_times_are_no_difference():
    assert paired_ratio((1.0, 2.0), (1.0, 2.0)) == Ratio(1.0, 1.0, 1.0)
    assert "no difference" in str(paired_ratio((1.0, 2.0), (1.0, 2.0)))


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)), min_size=2, max_size=20))
def test_ratio_lies_in_its_interval_and_turns_round_with_its_arguments(pairs):
    baseline, other = zip(*pairs, strict=True)
    there, back = paired_ratio(baseline, other), paired_ratio(other, baseline)
    assert there.low <= there.value <= there.high
    assert there.value * back.value == pytest.approx(1)
    assert there.within_noise == back.within_noise


def test_table_shows_each_variant_and_the_gain_over_the_first(clock):
    fast, slow = clock.work(lambda: 0.001), clock.work(lambda: 0.002)
    result = compare({"old": slow, "new": fast}, audio_seconds=1.0, items=1)
    assert str(result).splitlines()[2].startswith("new")
    lines = result._repr_markdown_().splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "1 ms" in lines[3]
    assert "2.00 times" in lines[3]


# --- equal results


def test_check_accepts_equal_results():
    compare({"a": lambda: 3, "b": lambda: 3}, check=operator.eq)
    compare({"a": lambda: np.ones(3), "b": lambda: np.ones(3)}, check=np.testing.assert_allclose)


@pytest.mark.parametrize("check", [operator.eq, np.testing.assert_allclose])
def test_check_names_the_variant_that_differs(check):
    with pytest.raises(MeasureError, match="'wrong' gave another result than 'right'"):
        compare({"right": lambda: 3, "same": lambda: 3, "wrong": lambda: 4}, check=check)


def test_check_sees_the_timed_runs_and_not_the_first_alone():
    results = iter([1, 1, 2])  # to warm up, then two timed runs
    with pytest.raises(MeasureError, match="In run 2"):
        compare({"steady": lambda: 1, "drifting": lambda: next(results)}, runs=2, check=operator.eq)


# --- what cannot be measured


@pytest.mark.parametrize(("variants", "options"), [({}, {}), ({"a": int}, {"runs": 1}), ({"a": int}, {"warmup": -1})])
def test_senseless_measurements_are_refused(variants, options):
    with pytest.raises(MeasureError):
        compare(variants, **options)


def test_failing_variant_is_named_and_its_error_kept():
    with pytest.raises(MeasureError, match="'bad' failed: ZeroDivisionError") as caught:
        compare({"good": lambda: 1, "bad": lambda: 1 / 0})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_unknown_variant_is_refused(clock):
    with pytest.raises(MeasureError, match="'c'"):
        compare({"a": clock.work(lambda: 1.0)}).speedup("a", "c")


# --- memory


def allocate_and_hold():
    block = np.ones(100 * MEGABYTE, np.uint8)
    time.sleep(0.05)  # long enough for a sampling thread on a busy machine
    return block[:3].tolist()


def test_compare_gives_each_variant_its_own_peak():
    result = compare({"large": allocate_and_hold, "small": lambda: time.sleep(0.01)}, runs=2)
    assert result["large"].peak_bytes == pytest.approx(100 * MEGABYTE, rel=0.1)
    assert result["small"].peak_bytes < 10 * MEGABYTE


def test_real_cuda_run_is_waited_for_and_its_memory_counted():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA; none here")
    block = torch.ones(8192, 8192, device="cuda")
    result = compare({"product": lambda: block @ block}, runs=3)["product"]
    assert 2 * 8192**3 / result.median < 1e15, "faster than any GPU: the clock did not wait"
    assert result.peak_bytes == pytest.approx(4 * 8192**2, rel=0.1)


def test_comparison_is_recorded_a_row_a_variant(monkeypatch, tmp_path, clock):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    result = compare({"a": clock.work(lambda: 1.0), "b": clock.work(lambda: 2.0)}, runs=3)
    written = result.record("step", model="base", clip="jfk")
    assert [(row.what, row.value, row.runs, row.model) for row in written] == [
        ("step: a", 1.0, 3, "base"),
        ("step: b", 2.0, 3, "base"),
    ]
    assert [row.gain for row in written] == [None, (0.5, 0.5, 0.5)]  # of the pairs, against the first
    assert rows.read_rows(tmp_path) == written


# --- what else the machine did ----------------------------------------------------------------------------------------


def test_the_load_before_and_during_the_runs_lands_in_rows_and_ratios(monkeypatch, tmp_path, clock):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    plant_load(monkeypatch, 0.125, 0.5)
    result = compare({"a": clock.work(lambda: 1.0), "b": clock.work(lambda: 2.0)}, runs=3)
    assert {(row.load_before, row.load_during) for row in result.record("step")} == {(0.125, 0.5)}
    assert result.speedup("b", "a").load == timing.Load(0.125, 0.5)


@pytest.mark.parametrize(
    ("before", "during", "said"),
    [
        (0.05, 0.1, ""),
        (None, None, ""),
        (0.0, 0.9, "Other processes used 0% of the processors before and 90% during these runs."),
        (0.4, None, "Other processes used 40% of the processors before and 0% during these runs."),
    ],
)
def test_a_comparison_on_a_busy_machine_says_so(monkeypatch, clock, before, during, said):
    plant_load(monkeypatch, before, during)
    result = compare({"a": clock.work(lambda: 1.0)}, runs=2)
    assert result.warning() == said
    assert str(result).splitlines()[2:] == ([said] if said else [])
    assert ("Other processes" in result._repr_markdown_()) is bool(said)


def test_a_comparison_that_was_put_together_elsewhere_has_no_load():
    assert timing.load_fields(None) == {}
    assert timing.Comparison({}).warning() == ""
