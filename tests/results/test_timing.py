"""Planted workloads of known time, noise, drift and allocation; result rows, whole and damaged."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import multiprocessing
import operator
import random
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import MeasureError, RowError
from labsupport.machine import backend
from labsupport.machine.backend import choose_backend
from labsupport.machine.description import describe_machine
from labsupport.profiling.table import make_table
from labsupport.results import memory, rows, timing
from labsupport.results.memory import peak_memory
from labsupport.results.rows import Row
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


@pytest.fixture
def clock(monkeypatch):
    planted = Clock()
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


def test_variants_take_turns():
    calls = []
    compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3, warmup=2)
    assert "".join(calls) == "aabb" + "ababab" + "ab"


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
    seen = []
    compare({"look": lambda: seen.append(gc.isenabled())}, runs=2, warmup=0)
    assert seen[:2] == [False, False]
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

    seen = [compare({"a": spin, "b": spin}, runs=5).speedup("a", "b").within_noise for _ in range(10)]
    assert sum(seen) >= 5


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


@pytest.mark.parametrize("sampled", [False, True])
def test_peak_memory_is_what_was_allocated(monkeypatch, sampled):
    if sampled:
        monkeypatch.setattr(memory, "reset_high_water", lambda: False)
    result, peak = peak_memory(allocate_and_hold)
    assert result == [1, 1, 1]
    assert peak == pytest.approx(100 * MEGABYTE, rel=0.1)


def test_compare_gives_each_variant_its_own_peak():
    result = compare({"large": allocate_and_hold, "small": lambda: time.sleep(0.01)}, runs=2)
    assert result["large"].peak_bytes == pytest.approx(100 * MEGABYTE, rel=0.1)
    assert result["small"].peak_bytes < 10 * MEGABYTE


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator keeps freed blocks; others are not so tested")
def test_memory_that_an_earlier_run_freed_counts_again():
    pins = []  # a block that stays at the heap's end keeps the C library from giving back what is free below

    def many_small_blocks():
        blocks = [bytearray(50_000) for _ in range(2000)]
        pins.append(bytearray(50_000))
        return len(blocks)

    peaks = [peak_memory(many_small_blocks)[1] for _ in range(3)]
    assert peaks == pytest.approx([100 * MEGABYTE] * 3, rel=0.15)


FREE_BELOW_A_PIN = """
from labsupport.results import memory
{first}
for _ in range(2):  # the first free lets glibc's own rule grow
    block = b"x" * 20_000_000
    pin = b"y" * 100_000
    before = memory.read_status("VmRSS")
    del block
    freed = before - memory.read_status("VmRSS")
print(freed)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt, and keeps so much")
@pytest.mark.parametrize(("first", "freed"), [("", 0), ("memory.take_fresh_blocks()", 20)])
def test_a_freed_block_goes_back_where_fresh_ones_are_taken(first, freed):
    """A small block above it keeps a large one of the heap where it is."""
    done = subprocess.run(
        [sys.executable, "-c", FREE_BELOW_A_PIN.format(first=first)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) / MEGABYTE == pytest.approx(freed, abs=1)


def test_peak_on_a_device_is_the_allocators(monkeypatch):
    allocator = SimpleNamespace(now=500, peak=9000)  # a stand-in for torch.cuda: this test needs no GPU
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda: setattr(allocator, "peak", allocator.now),
        memory_allocated=lambda: allocator.now,
        max_memory_allocated=lambda: allocator.peak,
        synchronize=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(memory, "on_cuda", lambda: True)
    monkeypatch.setattr(backend, "on_cuda", lambda: True)
    assert peak_memory(lambda: setattr(allocator, "peak", 1700))[1] == 1200


def test_real_cuda_run_is_waited_for_and_its_memory_counted():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA; none here")
    block = torch.ones(8192, 8192, device="cuda")
    result = compare({"product": lambda: block @ block}, runs=3)["product"]
    assert 2 * 8192**3 / result.median < 1e15, "faster than any GPU: the clock did not wait"
    assert result.peak_bytes == pytest.approx(4 * 8192**2, rel=0.1)


# --- rows


def test_recorded_row_is_read_back_with_all_that_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.setenv("LAB_GROUP", "01_measure_a_baseline")
    row = rows.record("encoder", np.float32(0.5), "s", spread=0.01, runs=5, model="tiny.en", clip="jfk", peak_bytes=7)
    machine = describe_machine().name
    assert rows.read_rows(tmp_path) == [row]
    assert (tmp_path / machine / "01_measure_a_baseline.jsonl").is_file()
    assert (row.value, row.machine, row.backend) == (0.5, machine, choose_backend())
    assert row.versions[choose_backend()]


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("0", None), ("4,2", None), (None, None)])
def test_a_row_keeps_how_many_threads_were_asked_for(monkeypatch, tmp_path, asked, threads):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert rows.record("encoder", 1.0, "s").threads == threads


def test_own_results_go_to_the_labs_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LAB_RESULTS", raising=False)
    monkeypatch.delenv("LAB_GROUP", raising=False)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    row = rows.record("encoder", 1, "s", group="bench")
    assert rows.read_rows(tmp_path / "results") == [row]
    assert row in rows.read_rows()


def test_comparison_is_recorded_a_row_a_variant(monkeypatch, tmp_path, clock):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    result = compare({"a": clock.work(lambda: 1.0), "b": clock.work(lambda: 2.0)}, runs=3)
    written = result.record("step", model="base", clip="jfk")
    assert [(row.what, row.value, row.runs, row.model) for row in written] == [
        ("step: a", 1.0, 3, "base"),
        ("step: b", 2.0, 3, "base"),
    ]
    assert rows.read_rows(tmp_path) == written


def test_an_op_table_is_recorded_with_one_date(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    written = make_table([("MatMul", "", 2, 3.0, 2.0, "cpu"), ("Tile", "", 1, 1.0, 1.0, "cpu")]).record(
        "a step", model="base"
    )
    assert [(row.what, row.value, row.unit, row.note) for row in written] == [
        ("ops of a step: MatMul", 3.0, "ms", "calls: 2, on cpu"),
        ("ops of a step: Tile", 1.0, "ms", "calls: 1, on cpu"),
    ]
    assert len({row.date for row in written}) == 1
    assert rows.read_rows(tmp_path) == written


GOOD = Row("x", 1.0, "s", "m", "torch", "2026-01-01T00:00:00+00:00", "abc")


@pytest.mark.parametrize(
    "change",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": "1"},
        {"value": True},
        {"value": None},
        {"missing": "cuda"},
        {"spread": math.nan},
        {"what": None},
        {"model": 3},
        {"threads": "1"},
        {"versions": []},
        {"date": "yesterday"},
        {"date": "2026-01-01T00:00:00+08:00"},
        {"date": "2026-01-01T00:00:00"},
        {"surprise": 1},
    ],
)
def test_damaged_row_is_refused_with_file_and_line(tmp_path, change):
    path = tmp_path / "m" / "g.jsonl"
    rows.append_row(GOOD, path)
    whole = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps({**whole, **change}) + "\n")
    with pytest.raises(RowError) as caught:
        rows.read_rows(tmp_path)
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize("tail", ['{"what": "x", "val', "\n", "[]\n", "null\n", "\xff\n"])
def test_line_that_is_no_row_is_refused(tmp_path, tail):
    path = tmp_path / "g.jsonl"
    rows.append_row(GOOD, path)
    with path.open("a") as file:
        file.write(tail)
    with pytest.raises(RowError, match="no result row"):
        rows.read_rows(tmp_path)


def test_any_text_survives_the_file(tmp_path):
    strange = Row(**{**vars(GOOD), "note": 'line\u2028separator, "quote", 语音\nnew line'})
    rows.append_row(strange, tmp_path / "g.jsonl")
    assert rows.read_rows(tmp_path) == [strange]


def append_many(path):
    for _ in range(50):
        rows.append_row(GOOD, path)


def test_processes_append_to_one_file_without_breaking_lines(tmp_path):
    path = tmp_path / "g.jsonl"
    workers = [multiprocessing.get_context("spawn").Process(target=append_many, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert rows.read_rows(tmp_path) == [GOOD] * 150


def test_rows_come_in_the_order_of_their_dates(tmp_path):
    later = Row(**{**vars(GOOD), "date": "2026-02-01T00:00:00+00:00"})
    rows.append_row(later, tmp_path / "a.jsonl")
    rows.append_row(GOOD, tmp_path / "b.jsonl")
    assert rows.read_rows(tmp_path) == [GOOD, later]


def test_missing_folder_has_no_rows(tmp_path):
    assert rows.read_rows(tmp_path / "nowhere") == []


def test_commit_says_when_files_differ_and_when_there_is_no_git(tmp_path):
    assert rows.read_commit(tmp_path) == "unknown"

    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-m", "one", "--no-verify")
    clean = rows.read_commit(tmp_path)
    assert len(clean) == 9
    (tmp_path / "f").write_text("2")
    assert rows.read_commit(tmp_path) == f"{clean}+dirty"
