"""Result rows, whole and damaged."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pytest

from labsupport.base.errors import RowError
from labsupport.base.paths import ROOT
from labsupport.machine.backend import choose_backend
from labsupport.machine.description import describe_machine
from labsupport.profiling.table import make_table
from labsupport.results import rows
from labsupport.results.rows import Row

ROW = Row("x", 1.0, "times", "laptop", "torch", "2026-01-01T00:00:00+00:00", "abc")


def test_recorded_row_is_read_back_with_all_that_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.setenv("LAB_GROUP", "01_measure_a_baseline")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    row = rows.record("encoder", np.float32(0.5), "s", spread=0.01, runs=5, model="tiny.en", clip="jfk", peak_bytes=7)
    machine = describe_machine().name
    assert rows.read_rows(tmp_path) == [row]
    assert (tmp_path / machine / "01_measure_a_baseline.jsonl").is_file()
    assert (row.value, row.machine, row.backend) == (0.5, machine, choose_backend())
    assert row.threads == 3
    assert row.versions[choose_backend()]


@pytest.mark.parametrize(("variable", "folder"), [("", "results"), ("PYTEST_CURRENT_TEST", "checks")])
def test_own_results_go_to_the_labs_folder_and_those_of_tests_apart(monkeypatch, tmp_path, variable, folder):
    for name in ("LAB_RESULTS", "LAB_GROUP", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    if variable:
        monkeypatch.setenv(variable, "notebooks/00_start_here.ipynb::Cell 3 (call)")
    row = rows.record("encoder", 1, "s", group="bench")
    assert rows.read_rows(tmp_path / folder) == [row]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert row in rows.read_rows()


class Shell:
    """IPython's, as far as a row asks it."""

    def __init__(self, **names):
        self.user_ns = names


@pytest.mark.parametrize(
    ("shell", "fast"),
    [(None, None), (Shell(), None), (Shell(fast=True), True), (Shell(fast=False), False), (Shell(fast="yes"), None)],
)
def test_a_row_says_whether_its_notebook_was_in_fast_mode(monkeypatch, tmp_path, shell, fast):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert rows.record("encoder", 1, "s").fast is fast


@pytest.mark.parametrize(
    ("value", "spread", "noisy"),
    [
        (4.08, 4.08 - 1.45, True),  # seen on a busy machine, and recorded without a remark
        (2.0, 1.0, False),
        (2.0, 1.01, True),
        (-2.0, 1.01, True),
        (2.0, None, False),
        (None, None, False),
    ],
)
def test_a_spread_beyond_the_limit_is_too_noisy(value, spread, noisy):
    row = replace(GOOD, value=value, spread=spread, missing=None if value else "cuda")
    assert row.is_too_noisy() is noisy


@pytest.mark.parametrize(
    ("unit", "low", "high", "noisy"),
    [("times as fast", 1.02, 30.74, True), ("times as fast", 3.12, 5.5, False), ("power of the layers", -9, 9, False)],
)
def test_an_interval_of_a_ratio_beyond_the_limit_is_too_noisy(unit, low, high, noisy):
    assert replace(GOOD, value=4.44, spread=None, unit=unit, low=low, high=high).is_too_noisy() is noisy


@pytest.mark.parametrize(("gain", "noisy"), [((3.75, 1.16, 8.28), True), ((3.14, 2.92, 3.47), False), (None, False)])
def test_a_gain_whose_interval_is_beyond_the_limit_is_too_noisy(gain, noisy):
    """The first was seen on a busy machine, and the report showed 3.75 times as its headline."""
    assert replace(GOOD, value=3.3, spread=0.9, gain=gain).is_too_noisy() is noisy


@pytest.mark.parametrize(
    ("fields", "interval"),
    [
        ({"low": 1.5, "high": 2.5}, (1.5, 2.5)),
        ({"spread": 0.3}, (1.7, 2.3)),
        ({"spread": 0.3, "low": 1.5, "high": 2.5}, (1.5, 2.5)),
        ({}, None),
    ],
)
def test_an_interval_is_stored_or_in_older_rows_the_spread_to_both_sides(fields, interval):
    assert replace(ROW, value=2.0, **fields).interval == (pytest.approx(interval) if interval else None)


@pytest.mark.parametrize(
    "fields",
    [
        {"low": 1.5}, {"high": 2.5}, {"low": 2.1, "high": 2.5}, {"low": 1.0, "high": 1.9}, {"gain": (2.0, 1.0)},
        {"gain": (2.0, 2.1, 2.5)}, {"gain": (2.0, None, 2.5)}, {"sizes": ((1, 2, 3),)}, {"sizes": ((1, "2"),)},
        {"sizes": 5}, {"predicted": "yes"}, {"low": float("nan"), "high": 3.0}, {"gain": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_an_interval_without_its_value_inside_is_refused(fields):
    with pytest.raises(RowError):
        replace(ROW, value=2.0, **fields)


def test_intervals_and_sizes_come_back_from_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    sizes = ((1, 2.0), (2, 4.5))
    row = rows.record("x", 2.0, "times", low=1.5, high=2.5, gain=(2.0, 1.5, 2.5), sizes=sizes, predicted=True)
    assert rows.read_rows(tmp_path) == [row]
    assert row.device == "cpu" or row.device.split()[0] in ("cuda", "ascend")


@pytest.mark.parametrize(
    ("before", "during", "busy"),
    [(None, None, False), (0.1, 0.2, False), (0.3, 0.0, True), (0.0, 0.9, True), (None, 0.26, True)],
)
def test_a_machine_is_busy_if_others_used_much_of_it(before, during, busy):
    assert replace(GOOD, load_before=before, load_during=during).is_busy() is busy


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


AHEAD = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat(timespec="microseconds")
ODD = {
    "NaN": {"value": math.nan},
    "infinite": {"value": math.inf},
    "no float holds it": {"value": 10**400},
    "larger than anything": {"value": 1e300},
    "zero seconds": {"value": 0.0},
    "less than a clock measures": {"value": 5e-324},
    "negative seconds": {"value": -1.0},
    "no gain at all": {"value": 0, "unit": "times"},
    "negative memory": {"value": -3, "unit": "bytes"},
    "text for a value": {"value": "1"},
    "true for a value": {"value": True},
    "no value": {"value": None},
    "value and missing": {"missing": "cuda"},
    "spread NaN": {"spread": math.nan},
    "negative spread": {"spread": -0.1},
    "half a run": {"runs": 2.5},
    "no run": {"runs": 0},
    "less than no memory": {"peak_bytes": -1},
    "what is no text": {"what": None},
    "model is a number": {"model": 3},
    "model is zero": {"model": 0},
    "model is false": {"model": False},
    "clip is an empty list": {"clip": []},
    "note is an empty object": {"note": {}},
    "missing is zero": {"missing": 0},
    "missing is an empty list": {"missing": []},
    "claim is false": {"claim": False},
    "threads are text": {"threads": "1"},
    "versions are a list": {"versions": []},
    "a version is a number": {"versions": {"torch": 2}},
    "half a character": {"note": "\ud800"},
    "no date": {"date": "yesterday"},
    "date is a number": {"date": 20260101},
    "another time zone": {"date": "2026-01-01T00:00:00+08:00"},
    "no time zone": {"date": "2026-01-01T00:00:00"},
    "no such day": {"date": "2026-02-30T00:00:00+00:00"},
    "tomorrow": {"date": AHEAD},
    "far ahead": {"date": "9999-12-31T23:59:59+00:00"},
    "a newer field": {"surprise": 1},
    "a newer schema": {"schema": rows.SCHEMA + 1},
    "schema is text": {"schema": "2"},
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_row_is_left_out_and_named_with_file_and_line(tmp_path, caplog, case):
    path = tmp_path / "m" / "g.jsonl"
    rows.append_row(GOOD, path)
    whole = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps({**whole, **ODD[case]}) + "\n")
    rows.append_row(GOOD, path)
    assert rows.read_rows(tmp_path) == [GOOD, GOOD]
    assert f"{path}, line 2" in caplog.text
    assert [line.where for line in rows.scan(tmp_path).odd] == [f"{path}, line 2"]


@pytest.mark.parametrize(
    "tail",
    [b'{"what": "x", "val', b"\n", b"[]\n", b"null\n", b"\xff\n", b"\0\0\0\0", b"[" * 100_000, b'"' + b"x" * 3_000_000],
    ids=["torn", "empty", "list", "null", "not UTF-8", "zeros", "deep", "endless"],
)
def test_a_line_that_is_no_row_is_left_out_and_named(tmp_path, caplog, tail):
    path = tmp_path / "g.jsonl"
    rows.append_row(GOOD, path)
    with path.open("ab") as file:
        file.write(tail)
    assert rows.read_rows(tmp_path) == [GOOD]
    assert "no result row: 1." in caplog.text
    assert f"{path}, line 2" in caplog.text


def test_a_figure_that_no_reader_would_take_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    for value, unit, details in (
        (0.0, "s", {}),
        (1e300, "s", {}),
        (1, "s", {"date": AHEAD}),
        (1, "s", {"note": "\ud800"}),
    ):
        with pytest.raises(RowError):
            rows.record("x", value, unit, **details)
    rows.record("word error rate", 0.0, "%")
    assert [row.value for row in rows.read_rows(tmp_path)] == [0.0]


def test_rows_of_the_first_schema_are_read(tmp_path):
    old = {key: value for key, value in vars(GOOD).items() if value is not None}
    (tmp_path / "g.jsonl").write_text(json.dumps(old) + "\n")
    assert rows.read_rows(tmp_path) == [GOOD]
    assert "schema" not in old


def test_the_reference_rows_are_all_whole():
    assert rows.scan(rows.REFERENCE).odd == []


# --- sessions


def test_a_run_id_joins_the_rows_of_one_process_and_of_its_workers(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.delenv("LAB_RUN_ID", raising=False)
    first, second = (rows.record("x", 1.0, "s") for _ in range(2))
    assert first.run_id == second.run_id
    assert len(first.run_id) == 8
    monkeypatch.setenv("LAB_RUN_ID", "abcd")
    assert rows.record("x", 1.0, "s").run_id == "abcd"
    other = subprocess.run(
        [sys.executable, "-c", "from labsupport.results import rows; print(rows.run_id())"],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "LAB_RUN_ID": ""},
    )  # fmt: skip
    assert other.stdout.strip() not in ("", first.run_id, "abcd")


def test_a_row_holds_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    monkeypatch.setenv("MY_TOKEN", "correct-horse")
    rows.record("x", 1.0, "s", model="https://me:pass@hub.example/base", note="asked with correct-horse")
    (text,) = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert "pass" not in text
    assert "horse" not in text
    assert "https://***@hub.example/base" in text


# --- faults of the disk


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


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_process_killed_at_any_moment_loses_and_doubles_no_row(tmp_path, chance, kill_times):
    """A row is there once it was said to be; a later process goes on behind it."""
    path = tmp_path / "g.jsonl"
    program = (
        "import sys; from dataclasses import replace; from pathlib import Path; from labsupport.results import rows\n"
        "row = rows.Row('x', 1.0, 's', 'm', 'torch', '2026-01-01T00:00:00+00:00', 'abc', note='n' * 5000)\n"
        "for number in range(10**6):\n"
        "    rows.append_row(replace(row, what=f'{sys.argv[2]} {number}'), Path(sys.argv[1]))\n"
        "    print(number, flush=True)\n"
    )
    for turn, seconds in enumerate(kill_times(0.1)):
        with subprocess.Popen([sys.executable, "-c", program, path, str(turn)], stdout=-1, cwd=ROOT) as process:
            process.stdout.readline()
            time.sleep(seconds)
            process.kill()
            confirmed = 1 + len(process.stdout.read().split())
        with path.open("ab") as file:
            file.write(b'{"what": "torn' * chance.randrange(2))
        names = [row.what for row in rows.scan(tmp_path).rows]
        done = [name for name in names if name.startswith(f"{turn} ")]
        assert done == [f"{turn} {number}" for number in range(len(done))]
        assert confirmed <= len(done) <= confirmed + 1
        assert len(names) == len(set(names))


def test_the_rows_of_one_file_are_read_alone(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    row = rows.record("encoder", 0.5, "s")
    (path,) = tmp_path.rglob("*.jsonl")
    with path.open("a") as file:
        file.write("no row\n")
    assert rows.read_file(path) == [row]
    assert "it is no result row: 1" in caplog.text


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
