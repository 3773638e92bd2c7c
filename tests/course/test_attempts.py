"""The record of what a learner tried and solved."""

import json
import threading

import pytest

from labsupport.base.errors import CourseError, FolderError
from labsupport.base.paths import lab_dir
from labsupport.course import attempts

FILES = ["progress.json", "attempts.json"]
NEWER = {"schema": 3, "1.1": "2026-01-01", "1.2": {"date": "2026-01-02", "tries": 3}, "solved": ["1.3"]}


def plant(content, name="progress.json"):
    path = lab_dir() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_progress_of_another_version_is_read_as_far_as_it_can_be_and_nothing_of_it_is_lost(caplog):
    path = plant(json.dumps(NEWER))
    assert attempts.solved() == {"1.1": "2026-01-01"}
    assert "3 entries are of another version" in caplog.text
    attempts.record_solved("7.1")
    assert set(attempts.solved()) == {"1.1", "7.1"}
    assert {key: value for key, value in json.loads(path.read_text()).items() if key != "7.1"} == NEWER


def test_the_first_date_stays():
    plant('{"1.1": "2026-01-01"}')
    attempts.record_solved("1.1")
    assert attempts.solved() == {"1.1": "2026-01-01"}


@pytest.mark.parametrize("content", ["[]", "null", '[["1.1", "x"]]', "", "{", "[" * 100_000])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_record_is_an_error_that_names_it(content, name):
    path = plant(content, name)
    with pytest.raises(CourseError, match="damaged") as caught:
        attempts.solved() if name == "progress.json" else attempts.record_wrong("1.1")
    assert caught.value.where == path


def test_a_record_that_cannot_be_written_is_an_error_with_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file"))
    for record in (attempts.record_solved, attempts.record_wrong, attempts.record_hint):
        with pytest.raises(FolderError) as caught:
            record("1.1")
        assert "LAB_HOME" in caught.value.hint


def test_answers_and_hints_are_counted_for_each_exercise():
    assert attempts.counts("1.1") == (0, 0)
    assert [attempts.record_wrong("1.1") for _ in range(2)] == [1, 2]
    assert attempts.record_hint("1.1") == 1
    assert (attempts.counts("1.1"), attempts.counts("1.2")) == ((2, 1), (0, 0))


@pytest.mark.parametrize("entry", [3, "x", None, [], {"wrong": "2"}, {"hints": 1.5}])
def test_counts_of_another_form_begin_anew(entry):
    plant(json.dumps({"1.1": entry}), "attempts.json")
    assert attempts.record_wrong("1.1") == 1


def test_two_notebooks_recording_at_once_lose_nothing():
    record = [lambda i=i: attempts.record_solved(f"1.{i}") for i in range(8)]
    record += [lambda: attempts.record_wrong("2.1") for _ in range(8)]
    threads = [threading.Thread(target=each) for each in record]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attempts.solved()) == 8
    assert attempts.counts("2.1") == (8, 0)
