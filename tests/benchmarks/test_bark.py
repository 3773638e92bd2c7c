"""The benchmark of Bark: what it runs, what it writes, how it continues after a stop, and its summary."""

from __future__ import annotations

import functools
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_bark import TINY, tiny_shape  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from labsupport import cli
from labsupport.bark import models
from labsupport.base import plots
from labsupport.base.errors import BenchError
from labsupport.benchmarks import bark
from labsupport.benchmarks.bark import Batch, Plan, Variant
from labsupport.results import rows

PLAIN, FUSED = Variant(), Variant(fused=True)


SENTENCES = functools.cache(bark.corpus.load)  # decoding the clips takes longer than generating


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setattr(bark.corpus, "load", SENTENCES)


def make_batch(variant="plain", batch=1, first=0, seconds=1.0, codes=7, peak=10**6):
    return Batch(variant, batch, first, seconds, dict.fromkeys(bark.STAGES, seconds / 4), peak, codes)


# --- what to run -----------------------------------------------------------------------------------------------------


def test_the_default_has_every_combination_of_the_articles_tricks():
    names = {variant.name for variant in bark.DEFAULT}
    assert tuple(map(Variant.parse, (variant.name for variant in bark.DEFAULT))) == bark.DEFAULT
    assert len(names) == 11
    assert {"plain", "fused+half+offload", "half+offload", "fused+static", "fused+half+offload+static"} < names


def test_an_unknown_trick_and_a_wrong_size_are_named():
    with pytest.raises(BenchError, match="no trick 'fast'"):
        bark.parse_variants("plain,fused+fast")
    with pytest.raises(BenchError, match="no batch sizes"):
        bark.parse_batch_sizes("1,b")
    assert bark.parse_variants(None) == bark.DEFAULT
    assert bark.parse_batch_sizes("1,8") == (1, 8)


@given(samples=st.integers(1, 40), rounds=st.integers(1, 6), sizes=st.sets(st.integers(1, 8), min_size=1))
def test_every_full_batch_of_every_variant_comes_once(samples, rounds, sizes):
    sizes = tuple(size for size in sizes if size <= samples) or (1,)
    plan = Plan(variants=(PLAIN, FUSED), batches=sizes, samples=samples, rounds=rounds)
    planned = [(variant, size, first) for variant, size, firsts in plan.blocks() for first in firsts]
    expected = [(v, s, f) for v in plan.variants for s in sizes for f in range(0, samples, s) if f + s <= samples]
    assert len(planned) == len(set(planned))
    assert set(planned) == set(expected)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"tokens": 0}, {"rounds": 0}, {"samples": 4, "batches": (1, 8)}])
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(BenchError, match="cannot be generated"):
        Plan(**wrong)


def test_half_precision_is_what_the_cpu_has(monkeypatch):
    class Machine:
        features = ("avx512_fp16",)

    monkeypatch.setattr(bark, "describe_machine", lambda backend: Machine)
    assert str(bark.half_type("cpu")) == "torch.float16"
    Machine.features = ("avx512_fp16", "amx_bf16")
    assert str(bark.half_type("cpu")) == "torch.bfloat16"
    assert str(bark.half_type("cuda")) == "torch.float16"
    Machine.features = ("avx2",)
    with pytest.raises(BenchError, match="no instructions"):
        bark.half_type("cpu")
    monkeypatch.setattr(bark, "open_variant", None)  # nothing is loaded before the complaint
    with pytest.raises(BenchError, match="no instructions"):
        bark.run(Plan(samples=1))


# --- running, stopping, going on -------------------------------------------------------------------------------------


VARIANTS = (PLAIN, Variant(fused=True, offload=True))


@pytest.fixture
def measured(monkeypatch):
    """Takes the place of the measuring process: the variants whose peak was asked for, in turn."""
    names = []

    def measure_peak(plan, variant, size):
        names.append(variant.name)
        return len(variant.name)

    monkeypatch.setattr(bark, "measuring_process", lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(bark, "measure_peak", measure_peak)
    return names


@pytest.fixture
def opened(monkeypatch):
    """The variants that were opened, in turn."""
    names, open_variant = [], bark.open_variant

    def noting(name, variant):
        names.append(variant.name)
        return open_variant(name, variant)

    monkeypatch.setattr(bark, "open_variant", noting)
    return names


@pytest.fixture
def plan(tiny_shape):  # noqa: F811
    return Plan(TINY, VARIANTS, samples=2, tokens=2, rounds=2)


def test_a_run_goes_in_rounds_and_reports_its_progress(plan, measured, opened):
    progress = []
    summaries = bark.run(plan, lambda *news: progress.append(news))
    assert opened == ["plain", "fused+offload"] * 2
    assert measured == ["plain", "fused+offload"]
    assert [s.peak_bytes for s in summaries] == [5, 13]
    assert [news[:2] for news in progress] == [(n, 4) for n in (0, 0, 1, 1, 1, 2, 2, 3, 3, 4)]
    assert progress[0][2] == "plain, 1 at a time: measuring memory"
    assert progress[-1][2] == "fused+offload, 1 at a time"
    assert [(s.variant, s.runs, s.same) for s in summaries] == [("plain", 2, 1.0), ("fused+offload", 2, 1.0)]


def test_a_run_that_was_killed_continues_where_it_was(plan, measured, opened):
    plan = replace(plan, variants=(PLAIN, FUSED), rounds=1)
    bark.run(plan)
    lines = plan.path().read_bytes().splitlines(keepends=True)
    plan.path().write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed in the middle of its last line
    opened.clear()
    again = bark.run(plan)
    assert opened == ["fused"]
    assert plan.path().read_bytes().startswith(b"".join(lines[:3]))
    assert [s.runs for s in again] == [2, 2]
    assert len(measured) == 2
    assert bark.run(plan) == again
    assert len(opened) == 1
    assert bark.run(plan, fresh=True) != again
    assert len(opened) == 3


@pytest.mark.slow
def test_offload_needs_less_memory_and_both_peaks_include_weights():
    plan = Plan("bark-lesson", VARIANTS, samples=1, tokens=2)
    with bark.measuring_process() as process:
        plain, offloaded = (process.submit(bark.measure_peak, plan, variant, 1).result() for variant in VARIANTS)
    model = models.load("bark-lesson")
    assert plain > sum(parameter.nbytes for parameter in model.parameters())
    assert plain > offloaded > max(sum(p.nbytes for p in stage.parameters()) for stage in model.children())


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "some.jsonl"
    bark.append(path, make_batch())
    with path.open("a") as file:
        file.write('{"variant": 3}\n')
    with pytest.raises(BenchError, match="line 2"):
        bark.read(path)


# --- summing up ------------------------------------------------------------------------------------------------------


def test_a_summary_is_what_its_batches_are():
    seconds = [3.0, 1.0, 2.0, 10.0]
    batches = [make_batch(first=n, seconds=s, codes=n) for n, s in enumerate(seconds)]
    batches += [make_batch("half", first=n, seconds=s / 2, codes=0) for n, s in enumerate(seconds)]
    batches += [make_batch(batch=2, first=n, seconds=4.0) for n in (0, 2)]
    plain, half, pairs = bark.summarise(batches)
    assert (plain.latency, half.latency, pairs.latency) == (2.5, 1.25, 4.0)
    assert (plain.throughput, pairs.throughput) == (0.4, 0.5)
    assert (plain.same, half.same, pairs.same) == (1.0, 0.25, 1.0)
    assert plain.stages["fine"] == 2.5 / 4
    assert plain.interval[0] <= 2.5 <= plain.interval[1]


def test_the_interval_is_nearly_that_of_order_statistics():
    values = list(np.random.default_rng(0).normal(10, 1, 100))
    low, high = bark.median_interval(values)
    ordered = sorted(values)
    inner, outer = stats.binom.ppf([0.025, 0.975], 100, 0.5).astype(int)
    assert low == pytest.approx(ordered[inner], abs=0.15)
    assert high == pytest.approx(ordered[outer], abs=0.15)
    assert bark.median_interval([4.0]) is None
    assert low < statistics.median(values) < high


def test_the_front_joins_what_nothing_beats(tmp_path):
    batches = [
        make_batch("plain", seconds=2.0, peak=400 * 10**6),
        make_batch("fused", seconds=1.0, peak=300 * 10**6),
        make_batch("offload", seconds=4.0, peak=100 * 10**6),
    ]
    figure = bark.pareto(bark.summarise(batches))
    front = figure.axes[0].lines[-1].get_xydata().tolist()
    assert front == [[100.0, 0.25], [300.0, 1.0]]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["1  fused, 1 at a time: 1 s", "2  plain, 1 at a time: 2 s", "3  offload, 1 at a time: 4 s"]
    assert plots.to_png(figure)[:4] == b"\x89PNG"


def test_the_command_prints_a_table_records_rows_and_draws(plan, measured, tmp_path):
    options = {"--samples": "1", "--checkpoint": TINY, "--variants": "plain,fused", "--tokens": "2"}
    ran = CliRunner().invoke(cli.app, ["bench", "bark", *chain.from_iterable(options.items())])
    assert ran.exit_code == 0, ran.output
    assert "latency (s)" in ran.output
    assert ran.output.count("one run") == 2
    printed = [line.split()[0] for line in ran.output.splitlines() if line.startswith(("plain", "fused"))]
    assert printed == ["plain", "fused"]
    recorded = rows.read_rows(rows.results_dir())
    latencies = [row for row in recorded if row.what.startswith("Bark, 1 at a time")]
    assert [row.what for row in latencies] == ["Bark, 1 at a time: plain", "Bark, 1 at a time: fused"]
    assert all(row.unit == "s" and row.value > 0 and row.peak_bytes == 5 for row in latencies)
    assert all(row.spread is None and "one run" in row.note for row in latencies)
    rates = [row for row in recorded if row.what.startswith("Bark's throughput: ")]
    assert [1 / row.value for row in rates] == pytest.approx([row.value for row in latencies])
    assert [row.peak_bytes for row in rates] == [5, 5]
    (raw,) = (tmp_path / "bench").glob("*.jsonl")
    assert [json.loads(line)["variant"] for line in raw.read_text().splitlines()] == ["plain", "fused"]
    assert raw.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
