"""What is stored of a run, and how its failures are classed."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from labsupport.base.errors import CourseError, FolderError
from labsupport.base.paths import lab_dir
from labsupport.course import outcomes
from labsupport.course.outcomes import Failure, NotebookResult, Summary

FAILED = NotebookResult("01_a", "torch", "failed", "r", failure=Failure("assertion", "one is not two", 2))
PASSED = NotebookResult("01_a", "mindspore", "passed", "r", skips=["no int8"], fingerprint="f")


def make_notebook(source, outputs=()):
    return {"cells": [{"cell_type": "code", "source": source, "outputs": list(outputs)}]}


def test_the_last_result_of_each_notebook_can_be_read_back():
    for result in (FAILED, dataclasses.replace(PASSED, status="failed"), PASSED):
        outcomes.store(result)
    assert outcomes.last_results() == [PASSED, FAILED]
    assert lab_dir() in outcomes.runs_dir().parents


def test_a_damaged_record_is_left_out_and_named(caplog):
    outcomes.store(PASSED)
    (outcomes.runs_dir() / "02_b.torch.json").write_text('{"notebook": ')
    assert outcomes.last_results() == [PASSED]
    assert "02_b.torch.json is left out" in caplog.text
    assert outcomes.passed_before("02_b", "torch", "r", "") is None


WHOLE = json.loads(json.dumps(dataclasses.asdict(FAILED)))
READ = {
    "an older version knew no failure": ({"failure": ...}, dataclasses.replace(FAILED, failure=None)),
    "an older version knew no cells": ({"cells": ..., "skips": ..., "fingerprint": ...}, FAILED),
    "a newer version adds a field": ({"colour": "red", "failure": {**WHOLE["failure"], "line": 3}}, FAILED),
}
SET_ASIDE = {
    "no status": {"status": ...},
    "another status": {"status": "flaky"},
    "seconds are text": {"seconds": "fast"},
    "seconds are no float": {"seconds": 10**400},
    "skips are a text": {"skips": "none"},
    "failure is a text": {"failure": "it failed"},
    "failure without its kind": {"failure": {"message": "x"}},
    "date is a number": {"date": 20260101},
}


def plant(change, name="01_a.torch"):
    fields = {key: value for key, value in {**WHOLE, **change}.items() if value is not ...}
    path = outcomes.runs_dir() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize("case", READ)
def test_a_record_of_another_version_is_read_as_far_as_it_can_be(case):
    change, expected = READ[case]
    plant(change)
    assert outcomes.last_results() == [expected]


@pytest.mark.parametrize("case", SET_ASIDE)
def test_a_record_of_another_version_is_set_aside_with_a_word(case, caplog):
    path = plant(SET_ASIDE[case])
    outcomes.store(PASSED)
    assert outcomes.last_results() == [PASSED]
    assert f"{path} is of another version" in caplog.text
    assert outcomes.passed_before("01_a", "torch", "r", "") is None


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"'])
def test_what_is_no_record_at_all_is_set_aside(content):
    plant({}).write_text(content)
    assert outcomes.last_results() == []


@pytest.mark.parametrize(
    "content", ['{"finished": false}', '{"finished": false, "id": 3}', "[]", "null", "{", "\xff", ""]
)
def test_a_run_of_another_version_is_not_continued(content):
    outcomes.runs_dir().mkdir(parents=True)
    (outcomes.runs_dir() / "run.json").write_bytes(content.encode("latin-1"))
    run_id = outcomes.begin(fresh=False)
    assert re.fullmatch("[0-9a-f]{8}", run_id)
    assert outcomes.begin(fresh=False) == run_id


def test_a_damaged_record_is_no_reason_not_to_run(caplog):
    plant({}).write_text('{"notebook": ')
    assert outcomes.passed_before("01_a", "torch", "r", "") is None
    assert "damaged" in caplog.text


def test_a_stored_record_holds_no_secret(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://me:correct-horse@hub.example")
    failure = Failure("network", "no https://me:correct-horse@hub.example, correct-horse\ud800")
    stored = outcomes.store(dataclasses.replace(FAILED, failure=failure, skips=["correct-horse"]))
    assert stored.failure.message.startswith("no https://***@hub.example, ***")
    assert stored.skips == ["***"]
    assert outcomes.last_results() == [stored]


def test_a_folder_that_cannot_be_written_to_is_an_error_with_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file" / "lab"))
    for work in (lambda: outcomes.store(PASSED), lambda: outcomes.begin(False), outcomes.only_run):
        with pytest.raises(FolderError, match="cannot be used") as caught:
            work()
        assert "LAB_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("stored", "asked", "found"),
    [
        (PASSED, ("r", "f"), True),
        (PASSED, ("another run", "f"), False),
        (PASSED, ("r", "changed"), False),
        (dataclasses.replace(PASSED, status="failed"), ("r", "f"), False),
    ],
)
def test_only_what_passed_unchanged_in_this_run_counts(stored, asked, found):
    outcomes.store(stored)
    assert outcomes.passed_before("01_a", "mindspore", *asked) == (PASSED if found else None)
    assert outcomes.passed_before("02_b", "mindspore", *asked) is None


def test_an_interrupted_run_goes_on_and_a_finished_or_fresh_one_begins_anew():
    first = outcomes.begin(fresh=False)
    assert outcomes.begin(fresh=False) == first
    assert outcomes.begin(fresh=True) != first
    second = outcomes.begin(fresh=False)
    outcomes.finish(second)
    assert outcomes.begin(fresh=False) != second


def test_the_fingerprint_follows_source_and_parameters_but_not_outputs():
    fingerprint = outcomes.compute_fingerprint(make_notebook("print(1)"), "torch", {})
    assert outcomes.compute_fingerprint(make_notebook("print(1)", ["1"]), "torch", {}) == fingerprint
    assert outcomes.compute_fingerprint(make_notebook(["print", "(1)"]), "torch", {}) == fingerprint
    assert outcomes.compute_fingerprint(make_notebook("print(2)"), "torch", {}) != fingerprint
    assert outcomes.compute_fingerprint(make_notebook("print(1)"), "mindspore", {}) != fingerprint
    assert outcomes.compute_fingerprint(make_notebook("print(1)"), "torch", {"model": "base"}) != fingerprint


def test_two_runs_at_once_are_refused():
    with outcomes.only_run(), pytest.raises(CourseError, match="Another"), outcomes.only_run():
        pass


def test_a_summary_counts_by_status():
    summary = Summary([PASSED, FAILED], [])
    assert (summary.ok, summary.count("passed"), summary.count("skipped")) == (False, 1, 0)


# The last lines of logs of real failures, gathered by causing them.
LOGS = {
    "memory": [
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 72.8 TiB for an array with "
        "shape (10000000000000,) and data type float64",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 400000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23 GiB",
    ],
    "network": [
        "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub "
        "and we cannot find the requested files in the local cache. Please check your connection and try again",
        "requests.exceptions.ConnectionError: HTTPConnectionPool(host='127.0.0.1', port=9): Max retries exceeded with "
        "url: / (Caused by NewConnectionError: Failed to establish a new connection: [Errno 111] Connection refused)",
        "CheckpointError: The model hub did not answer.",
        "urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>",
    ],
    "dependency": [
        "ModuleNotFoundError: No module named 'no_such_module'",
        "OSError: libcudart.so.99: cannot open shared object file: No such file or directory",
        "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: the "
        "package flash_attn seems to be not installed.",
    ],
    "assertion": ["AssertionError: \nNot equal to tolerance rtol=1e-07, atol=0\n\nMismatched elements: 1 / 1 (100%)"],
    "other": ["ValueError: invalid literal for int() with base 10: 'x'"],
}


@pytest.mark.parametrize(("kind", "log"), [(kind, log) for kind, logs in LOGS.items() for log in logs])
def test_failures_are_classed_by_their_real_logs(kind, log):
    assert outcomes.classify(log) == kind
