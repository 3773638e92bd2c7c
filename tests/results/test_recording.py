"""What a benchmark writes down and prints."""

from __future__ import annotations

import contextlib

import pytest

from labsupport.results import rows
from labsupport.results.recording import Recording
from labsupport.results.timing import Comparison, Measurement

TIMED = Comparison({name: Measurement(name, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), None) for name in ("a", "b")})


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))


def read_back() -> dict[str, rows.Row]:
    assert {path.stem for path in rows.results_dir().rglob("*.jsonl")} <= {"bench"}
    return {row.what: row for row in rows.read_rows(rows.results_dir())}


def test_a_value_is_a_row_and_a_line(capsys):
    Recording("bench", "whisper-tiny.en", "jfk").value("size", 12345, "bytes", clip=None, runs=2)
    row = read_back()["size"]
    assert (row.value, row.unit, row.model, row.clip, row.runs) == (12345, "bytes", "whisper-tiny.en", None, 2)
    assert "size: 1.234e+04 bytes" in capsys.readouterr().out


def test_a_comparison_is_a_row_a_variant_and_a_table(capsys):
    Recording("bench", "whisper-tiny.en", "jfk").comparison("a step", TIMED, note="with a note")
    row = read_back()["a step: b"]
    assert (row.value, row.clip, row.note) == (2.0, "jfk", "with a note")
    assert "a step\nvariant" in capsys.readouterr().out


def test_workers_write_their_own_rows(capsys):
    written = {}

    class Fake(contextlib.nullcontext):
        tasks = ("a step",)

        def __init__(self, name):
            super().__init__(self)
            self.name = name

        def run(self, task):
            return 2.0, 1.0, "the same"

        def record(self, what, value, unit, **details):
            written[self.name] = {"what": what, "value": value, **details}

    Recording("bench", "m", "jfk").workers("{task}: {worker} engine", map(Fake, "ab"), runs=3)
    shared = {"spread": 0.0, "runs": 3, "group": "bench", "model": "m", "clip": "jfk"}
    assert written["b"] == {"what": "a step: b engine", "value": 2.0, **shared}
    assert "a step: each engine" in capsys.readouterr().out
