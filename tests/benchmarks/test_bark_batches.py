"""What the benchmark of Bark measured: its file, lines of other versions in it, and the summary."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from labsupport.base import plots
from labsupport.benchmarks import bark_batches
from labsupport.benchmarks.bark_batches import STAGES, Batch


def make_batch(variant="plain", batch=1, first=0, seconds=1.0, codes=7, peak=10**6):
    return Batch(variant, batch, first, seconds, dict.fromkeys(STAGES, seconds / 4), peak, codes)


WHOLE = {"variant": "plain", "batch": 1, "first": 0, "seconds": 1.0, "peak_bytes": 5, "codes": 7}
WHOLE["stages"] = dict.fromkeys(STAGES, 0.25)
OTHERS = {
    "an older version": {"peak_bytes": ...},
    "another form of a field": {"stages": [0.25] * 4},
    "another stage": {"stages": {"all": 1.0}},
    "zero seconds": {"seconds": 0.0},
    "NaN": {"seconds": float("nan")},
    "text": {"variant": 3},
    "no batch": {"batch": 0},
    "more bytes than a float holds": {"peak_bytes": 10**400},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_line_of_another_version_is_set_aside_with_a_word(tmp_path, caplog, case):
    path = tmp_path / "some.jsonl"
    bark_batches.append(path, make_batch())
    with path.open("a") as file:
        line = {key: value for key, value in {**WHOLE, **OTHERS[case], "first": 1}.items() if value is not ...}
        file.write(json.dumps(line) + "\n{torn\n")
    assert bark_batches.read(path) == [make_batch()]
    assert f"{path}, line 2" in caplog.text
    assert f"{path}, line 3" in caplog.text


def test_what_a_newer_version_added_is_dropped_and_no_batch_counts_twice(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(2 * (json.dumps({**WHOLE, "colour": "red"}) + "\n"))
    assert bark_batches.read(path) == [make_batch(peak=5)]


@pytest.mark.parametrize("version", ["1" * 5000, "\x1b]0;x\x07\u202e1.0"], ids=["number", "escape codes"])
def test_an_odd_version_of_torch_is_another_and_shown_escaped(caplog, version):
    assert bark_batches.of_this_torch([replace(make_batch(), torch=version)]) == []
    assert "1 batches, measured with torch " in caplog.text
    assert all(line.isprintable() for line in caplog.text.splitlines())


# --- summing up ------------------------------------------------------------------------------------------------------


def test_a_summary_is_what_its_batches_are():
    seconds = [3.0, 1.0, 2.0, 10.0]
    batches = [make_batch(first=n, seconds=s, codes=n) for n, s in enumerate(seconds)]
    batches += [make_batch("half", first=n, seconds=s / 2, codes=0) for n, s in enumerate(seconds)]
    batches += [make_batch(batch=2, first=n, seconds=4.0) for n in (0, 2)]
    plain, half, pairs = bark_batches.summarise(batches)
    assert (plain.latency, half.latency, pairs.latency) == (2.5, 1.25, 4.0)
    assert (plain.throughput, pairs.throughput) == (0.4, 0.5)
    assert (plain.same, half.same, pairs.same) == (1.0, 0.25, 1.0)
    assert plain.stages["fine"] == 2.5 / 4
    assert plain.interval[0] <= 2.5 <= plain.interval[1]


def test_the_interval_is_nearly_that_of_order_statistics():
    values = list(np.random.default_rng(0).normal(10, 1, 100))
    low, high = bark_batches.median_interval(values)
    ordered = sorted(values)
    inner, outer = stats.binom.ppf([0.025, 0.975], 100, 0.5).astype(int)
    assert low == pytest.approx(ordered[inner], abs=0.15)
    assert high == pytest.approx(ordered[outer], abs=0.15)
    assert bark_batches.median_interval([4.0]) is None
    assert low < statistics.median(values) < high


def test_the_bars_name_each_variant_from_the_fastest_down(tmp_path):
    batches = [
        make_batch("plain", seconds=2.0, peak=400 * 10**6),
        make_batch("fused", seconds=1.0, peak=300 * 10**6),
        make_batch("offload", seconds=4.0, peak=100 * 10**6),
    ]
    figure = bark_batches.draw_bars(bark_batches.summarise(batches))
    speed, memory = figure.axes
    assert [bar.get_width() for bar in speed.patches] == [1.0, 0.5, 0.25]
    assert [bar.get_width() for bar in memory.patches] == [300.0, 400.0, 100.0]
    names = [label.get_text() for label in speed.get_yticklabels()]
    assert names == ["fused, 1 at a time", "plain, 1 at a time", "offload, 1 at a time"]
    assert speed.yaxis_inverted()
    assert plots.to_png(figure)[:4] == b"\x89PNG"
