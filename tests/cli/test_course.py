"""`lab run`, `test`, `open` and `progress`: what each passes on, prints, and gives as its exit code."""

import re

import pytest
from lab_command import invoke

from labsupport.course import attempts, jupyter, report, runner, testing, updates, working_copy
from labsupport.course.outcomes import NotebookResult, Summary
from labsupport.course.working_copy import Update


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """runner.run replaced by one that notes its arguments and gives the statuses in `statuses`."""
    calls = {"statuses": ["passed"]}

    def run(notebooks, **options):
        calls.update(notebooks=list(notebooks), **options)
        return Summary([NotebookResult(f"0{i}_a", "torch", s, "r") for i, s in enumerate(calls["statuses"])], [])

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(report, "write", lambda: tmp_path / "report.html")
    return calls


def test_run_passes_on_what_was_asked_for_and_nothing_else(recorded):
    invoke("run")
    assert (recorded["notebooks"], recorded["parameters"], recorded["backend"]) == ([], {"fast": True}, None)
    invoke("run", "01", "--full", "--model", "base", "--clip", "narration", "--backend", "mindspore", "--timeout", "9")
    assert recorded["notebooks"] == ["01"]
    assert recorded["parameters"] == {"fast": False, "model": "base", "clip": "narration"}
    assert (recorded["backend"], recorded["timeout"]) == ("mindspore", 9)


@pytest.mark.parametrize(("statuses", "code"), [(["passed", "skipped"], 0), (["passed", "failed"], 1)])
def test_run_ends_with_the_summary_the_report_and_an_honest_exit_code(recorded, statuses, code):
    recorded["statuses"] = statuses
    done = invoke("run")
    assert done.exit_code == code
    assert "1 passed" in done.output
    assert done.output.splitlines()[-1].endswith("report.html")


def test_run_save_executes_in_place(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(runner, "find_notebooks", lambda names: [tmp_path / f"{name}.ipynb" for name in names])
    monkeypatch.setattr(runner, "execute_in_place", lambda path, cell_timeout: saved.append(path.stem))
    assert invoke("run", "01_a", "--save").exit_code == 0
    assert invoke("run", "01_a", "--save", "--model", "base").exit_code == 2
    assert saved == ["01_a"]


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_test_gives_its_options_apart_and_the_rest_to_pytest(monkeypatch, passed, code):
    calls = []

    def run(arguments, tier, durations, say):
        calls.append((arguments, tier, durations))
        return passed

    monkeypatch.setattr(testing, "run", run)
    assert invoke("test", "--quick", "-x", "tests/test_house.py", "-k", "data").exit_code == code
    assert invoke("test", "--durations").exit_code == code
    assert invoke("test", "--soak").exit_code == code
    named = ["-x", "tests/test_house.py", "-k", "data"]
    assert calls == [(named, "quick", False), ([], "all", True), ([], "soak", False)]
    assert invoke("test", "--quick", "--soak").exit_code == 2


def test_open_passes_its_options_on_and_gives_jupyters_exit_code(monkeypatch):
    given = []
    monkeypatch.setattr(jupyter, "serve", lambda *options: given.append(options) or 3)
    assert invoke("open").exit_code == invoke("open", "--no-browser", "--port", 9, "--allow-root").exit_code == 3
    assert given == [(True, 8888, False), (False, 9, True)]


def test_report_says_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "write", lambda: tmp_path / "report.html")
    assert invoke("report").output == f"report: {tmp_path / 'report.html'}\n"


def test_report_opens_in_a_browser_where_that_is_asked_for(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(report, "write", lambda: tmp_path / "report.html")
    monkeypatch.setattr("typer.launch", shown.append)
    invoke("report")
    assert shown == []
    invoke("report", "--open")
    assert shown == [(tmp_path / "report.html").as_uri()]


@pytest.fixture
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))


def test_progress_counts_the_solved_exercises(own_progress):
    assert re.search(r"0 of \d+ exercises solved", invoke("progress").output)
    attempts.record_solved("0.1")
    assert re.search(r"1 of \d\d+ exercises solved", invoke("progress").output)
    assert "1 of 2 exercises solved" in invoke("progress", "00").output
    assert invoke("progress", "99").exit_code != 0


@pytest.mark.parametrize(("answer", "solved"), [("y", {"3.1", "00b.1"}), ("n", {"0.1", "3.1", "00b.1"})])
def test_progress_of_one_notebook_can_be_reset_after_a_question(own_progress, answer, solved):
    for name in ("0.1", "3.1", "00b.1"):
        attempts.record_solved(name)
        attempts.record_wrong(name)
    assert "00" in invoke("progress", "00", "--reset", input=answer).output
    assert set(attempts.solved()) == solved
    assert {name for name in ("0.1", "3.1", "00b.1") if attempts.counts(name)[0]} == solved
    assert re.search(r"0 of \d\d+ exercises", invoke("progress", "--reset", "--yes").output)
    assert attempts.solved() == {}


def test_update_says_what_became_of_each_page(monkeypatch, tmp_path):
    calls, pages = [], [Update("01_a", "new"), Update("02_b", "merged", ("cell1",))]
    monkeypatch.setattr(updates, "fetch", lambda: calls.append("fetch"))
    monkeypatch.setattr(working_copy, "update", lambda: calls.append("merge") or pages)
    monkeypatch.setattr(working_copy, "folder", lambda: tmp_path)
    done = invoke("update")
    assert calls == ["fetch", "merge"]
    assert done.output.splitlines()[:3] == [
        "01_a: new", "02_b: merged", "  cell cell1: changed by you and by the course; yours stays",
    ]  # fmt: skip
    pages.clear()
    assert "up to date" in invoke("update", "--local").output
    assert calls == ["fetch", "merge", "merge"]


def test_setup_without_the_bootstrap_says_what_to_call():
    done = invoke("setup")
    assert done.exit_code != 0
    assert "`./lab setup`" in str(done.exception.hint)
