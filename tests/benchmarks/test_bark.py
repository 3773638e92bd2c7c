"""The benchmark of Bark: what it runs, what it writes, how it continues after a stop, and its summary."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import bench_in_fork
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bark import TINY, tiny_shape  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from labsupport import cli
from labsupport.bark import models
from labsupport.base.errors import BenchError, FolderError
from labsupport.benchmarks import bark, bark_batches
from labsupport.benchmarks.bark import Plan, Variant
from labsupport.results import rows

PLAIN, FUSED = Variant(), Variant(fused=True)


SENTENCES = functools.cache(bark.corpus.load)  # decoding the clips takes longer than generating


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setattr(bark.corpus, "load", SENTENCES)


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0}, {"tokens": 0}, {"rounds": 0}, {"samples": 4, "batches": (1, 8)}, {"tokens": 5000},
        {"tokens": bark.LONGEST + 1}, {"batches": (0,)},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(BenchError, match="cannot be generated"):
        Plan(**wrong)


@pytest.mark.parametrize("wrong", [{"variants": ()}, {"batches": ()}], ids=str)
def test_a_plan_of_nothing_is_refused(wrong):
    with pytest.raises(BenchError, match="Nothing is to be measured"):
        Plan(**wrong)


@pytest.mark.parametrize(
    "options",
    [
        ["bark", "--tokens", "5000"], ["bark", "--variants", ""], ["bark", "--variants", ","], ["bark", "--batch", ""],
        ["bark", "--batch", "1,,8"], ["bark_attention", "--stages", ""], ["bark_attention", "--stages", "semantic,"],
        ["bark_attention", "--stages", "codec"], ["bark_attention", "--tokens", "5000"],
        ["invented_text", "--parts", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_benchmark_of_nothing_or_too_much_is_refused_before_a_model_is_made(options, monkeypatch):
    monkeypatch.setattr(bark.models, "load", None)
    ran = CliRunner().invoke(cli.app, ["bench", *options])
    assert isinstance(ran.exception, BenchError)
    assert ran.exception.hint


def test_a_list_names_each_thing_once():
    assert bark.parse_variants("plain, fused,plain") == (PLAIN, FUSED)
    assert bark.parse_batch_sizes("8,1,8") == (8, 1)


@pytest.mark.slow
def test_bark_has_room_for_as_many_tokens_as_a_plan_may_ask_for():
    model = models.load("bark-lesson")
    positions = model.config.semantic_config.block_size
    assert positions - 257 + 1 == bark.LONGEST  # behind 256 of text and one that ends it; the last token is not fed


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
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks, which start in a moment")
def test_a_benchmark_killed_at_random_points_loses_no_batch_and_doubles_none(tmp_path, kill_times):
    """What it said to be stored is there, once; the next call measures the others, and its rows stand once each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(bench_in_fork.IMPORTS)
    path, before = bench_in_fork.PLAN.path(), b""
    planned = {(v.name, size, first) for v, size, firsts in bench_in_fork.PLAN.blocks() for first in firsts}
    for seconds in kill_times(1.5):
        if before.count(b"\n") == len(planned):  # nothing is left to be ended: from the beginning
            path.unlink()
            before = b""
        process, told = start_bench(context, tmp_path)
        time.sleep(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        content = path.read_bytes()
        assert content.startswith(before)
        assert content.count(b"\n") >= before.count(b"\n") + max(told.value, 0)
        before = content[: content.rfind(b"\n") + 1]
    process, _ = start_bench(context, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    batches = [bark_batches.parse_batch(json.loads(line)) for line in path.read_bytes().splitlines()]
    assert len(batches) == len(planned)
    assert {batch.key for batch in batches} == planned
    reading = rows.scan(rows.results_dir())
    assert reading.odd == []
    names = Counter(row.what for row in reading.rows if row.run_id == reading.rows[-1].run_id)
    assert names == dict.fromkeys(names, 1)
    assert len(names) == 2 * (2 + len(bark_batches.STAGES))
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def start_bench(context, home):
    """A process that has begun to measure, and the number of batches that it says are stored."""
    told = context.Value("i", -1)
    process = context.Process(target=bench_in_fork.bench, args=(str(home), told))
    process.start()
    end = time.monotonic() + 120
    while told.value < 0 and process.exitcode is None:  # it ends without a word where all was stored
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.005)
    return process, told


@pytest.mark.slow
def test_offload_needs_less_memory_and_both_peaks_include_weights():
    plan = Plan("bark-lesson", VARIANTS, samples=1, tokens=2)
    with bark.measuring_process() as process:
        plain, offloaded = (process.submit(bark.measure_peak, plan, variant, 1).result() for variant in VARIANTS)
    model = models.load("bark-lesson")
    assert plain > sum(parameter.nbytes for parameter in model.parameters())
    assert plain > offloaded > max(sum(p.nbytes for p in stage.parameters()) for stage in model.children())


def test_batches_of_another_torch_are_measured_again(plan, measured, opened, caplog):
    bark.run(plan)
    lines = [json.loads(line) for line in plan.path().read_text().splitlines()]
    assert {line["torch"] for line in lines} == {bark.torch.__version__}
    plan.path().write_text("".join(json.dumps({**line, "torch": "1.0"}) + "\n" for line in lines))
    opened.clear()
    bark.run(plan)
    assert opened == ["plain", "fused+offload"] * 2
    assert "4 batches, measured with torch 1.0" in caplog.text


def test_a_folder_that_takes_nothing_is_named_before_hours_of_work(plan, measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(bark, "open_variant", None)
    with pytest.raises(FolderError) as caught:
        bark.run(plan)
    assert "LAB_HOME" in caught.value.hint


# --- the command ----------------------------------------------------------------------------------------------------


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
