"""Result rows, whole and damaged."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess

import numpy as np
import pytest

from labsupport.base.errors import RowError
from labsupport.machine.backend import choose_backend
from labsupport.machine.description import describe_machine
from labsupport.profiling.table import make_table
from labsupport.results import rows
from labsupport.results.rows import Row


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


def test_own_results_go_to_the_labs_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LAB_RESULTS", raising=False)
    monkeypatch.delenv("LAB_GROUP", raising=False)
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    row = rows.record("encoder", 1, "s", group="bench")
    assert rows.read_rows(tmp_path / "results") == [row]
    assert row in rows.read_rows()


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
