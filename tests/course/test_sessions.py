"""Kernels as IPython shows them to an extension: what is noted, under which name, and what never is."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from labsupport.base.errors import FolderError
from labsupport.base.paths import NOTEBOOKS
from labsupport.course import notebook as notebook_format
from labsupport.course import sessions
from labsupport.course.sessions import NBVAL, Session, Watch, last_sessions, store
from labsupport.results import rows

NAME = "00_start_here"
CELLS = notebook_format.code_cells(notebook_format.parse((NOTEBOOKS / f"{NAME}.ipynb").read_text(encoding="utf-8")))
SOURCES = [notebook_format.joined(cell["source"]) for cell in CELLS]
DATE = "2026-11-27T12:00:00+00:00"


class Shell:
    """An IPython shell that has executed nothing yet."""

    def __init__(self):
        self.user_ns = {"In": [""]}
        self.registered = []
        self.events = SimpleNamespace(
            register=lambda event, function: self.registered.append((event, function)),
            unregister=lambda event, function: self.registered.remove((event, function)),
        )

    def run(self, source, cell_id=None, success=True):
        self.user_ns["In"].append(source)
        for _, function in list(self.registered):
            function(SimpleNamespace(info=SimpleNamespace(raw_cell=source, cell_id=cell_id), success=success))


@pytest.fixture
def shell(monkeypatch):
    for name in ("LAB_GROUP", "JPY_SESSION_NAME"):
        monkeypatch.setenv(name, "")  # so that what the code under test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(sessions, "parents", lambda: iter(()))
    monkeypatch.setattr(sessions, "is_check", lambda: False)
    shell = Shell()
    yield shell
    monkeypatch.delenv("LAB_GROUP", raising=False)


def test_a_notebook_is_known_by_its_cells_and_noted_to_its_end(shell):
    sessions.load_ipython_extension(shell)
    for source in SOURCES:
        shell.run(source)
    (session,) = last_sessions()
    assert (session.notebook, session.cells, session.total) == (NAME, len(CELLS), len(CELLS))
    assert str(session) == f"run in another program on {session.date[:10]}".replace("in another", "by another")


def test_what_ran_before_the_extension_came_counts_and_rows_get_the_notebook_s_name(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    shell.run(SOURCES[0].replace("True", "False"))  # the reader's own parameters
    sessions.load_ipython_extension(shell)
    monkeypatch.setenv("JPY_SESSION_NAME", f"somewhere/{NAME}.ipynb")
    shell.run(SOURCES[1])
    (session,) = last_sessions()
    assert (session.cells, session.where) == (2, "JupyterLab")
    rows.record("x", 1.0, "s")
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == [f"{NAME}.jsonl"]


def test_a_cell_that_a_reader_changed_counts_by_its_id_and_one_that_failed_does_not(shell, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", f"{NAME}.ipynb")
    sessions.load_ipython_extension(shell)
    shell.run(SOURCES[0], CELLS[0]["id"])
    shell.run("my_answer = 1", CELLS[4]["id"])
    shell.run(SOURCES[5], CELLS[5]["id"])
    shell.run(SOURCES[5], CELLS[5]["id"], success=False)
    shell.run("scratch", "an-id-of-its-own")
    (session,) = last_sessions()
    assert session.cells == 2
    assert str(session).startswith(f"2 of {len(CELLS)} code cells run in JupyterLab on ")


def test_lab_run_and_scratch_notebooks_are_not_noted(shell, monkeypatch):
    sessions.load_ipython_extension(shell)
    shell.run("import labsupport")
    assert last_sessions() == []
    monkeypatch.setenv("LAB_GROUP", NAME)
    other = Shell()
    sessions.load_ipython_extension(other)
    assert other.registered == []


@pytest.mark.parametrize(
    ("variables", "names", "commands", "where"),
    [
        ({}, {}, [], "another program"),
        ({"JPY_SESSION_NAME": "x.ipynb"}, {}, [], "JupyterLab"),
        ({}, {"__vsc_ipynb_file__": "x.ipynb"}, [], "VS Code"),
        ({}, {}, ["python", "papermill", "bash", "jupyter-lab"], "papermill"),
        ({}, {}, ["jupyter-nbconvert"], "nbconvert"),
        ({"JPY_SESSION_NAME": "x.ipynb"}, {}, ["jupyter-nbconvert"], "nbconvert"),  # called from a cell
        ({}, {}, ["python3.11", "-c", "code", "jupyterlab"], "JupyterLab"),
    ],
)
def test_the_nearest_program_is_named(shell, monkeypatch, variables, names, commands, where):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sessions, "parents", lambda: iter(commands))
    shell.user_ns.update(names)
    assert sessions.find_program(shell) == where
    monkeypatch.setattr(sessions, "is_check", lambda: True)
    assert sessions.find_program(shell) == NBVAL


@pytest.mark.parametrize("where", [NBVAL, "JupyterLab", "VS Code", "papermill"])
def test_a_check_is_told_from_a_learner_s_run(where):
    session = Session(NAME, where, 3, 3, DATE)
    assert session.is_check is (where == NBVAL)
    verb = {NBVAL: "checked by", "papermill": "run by"}.get(where, "run in")
    assert str(session) == f"{verb} {where} on 2026-11-27"


def test_a_session_that_came_further_stays_until_another_comes_as_far(shell):
    store(Session(NAME, "JupyterLab", 9, 10, DATE))
    store(Session(NAME, "JupyterLab", 2, 10, "2026-11-28T12:00:00+00:00"))
    assert last_sessions()[0].date == DATE
    store(Session(NAME, "JupyterLab", 2, 11, "2026-11-29T12:00:00+00:00"))  # the notebook has changed since
    assert last_sessions()[0].cells == 2


def test_a_damaged_record_is_left_out_with_a_warning(shell, caplog):
    store(Session(NAME, "JupyterLab", 9, 10, DATE))
    path = sessions.sessions_dir() / "01_x.jupyterlab.json"
    path.write_text(json.dumps({"notebook": 3}))
    assert [session.notebook for session in last_sessions()] == [NAME]
    assert "01_x.jupyterlab.json is no record of a session" in caplog.text


def test_a_folder_that_takes_nothing_is_named_once_and_stops_no_cell(shell, monkeypatch, caplog):
    def refuse(session, before):
        raise FolderError("The folder cannot be used.", where="/x")

    monkeypatch.setattr(sessions, "store", refuse)
    sessions.load_ipython_extension(shell)
    for source in SOURCES[:3]:
        shell.run(source)
    assert caplog.text.count("The folder cannot be used") == 1
    assert shell.registered == []


def test_two_notebooks_that_fit_as_well_are_told_apart_by_a_later_cell(shell, monkeypatch, tmp_path):
    def cell(source):
        return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}

    for name, sources in {"01_a": ["x = 1", "a"], "02_b": ["x = 1", "b"]}.items():
        content = {"cells": [cell(source) for source in sources], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(content))
    monkeypatch.setattr(sessions, "NOTEBOOKS", tmp_path)
    assert sessions.name_from_cells(["x = 1"]) is None
    assert sessions.name_from_cells(["x = 1", "b"]) == "02_b"
    assert sessions.name_from_cells(["y"]) is None


def test_this_process_has_parents_with_names():
    assert any(name for name in sessions.parents())
    assert Watch(None).notebook == ""


def test_importing_the_package_in_a_kernel_loads_the_extension(monkeypatch):
    import importlib

    import labsupport

    loaded = []
    manager = SimpleNamespace(load_extension=loaded.append)
    shell = SimpleNamespace(extension_manager=manager)
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    importlib.reload(labsupport)
    assert loaded == ["labsupport.course.sessions"]
