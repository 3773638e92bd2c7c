"""The gate that compares notebooks with their stored outputs must be able to fail."""

import re
import subprocess
import sys
import time

import nbformat
import pytest
from nbval import kernel

from labsupport.course import nbval_kernels
from labsupport.course.testing import NBVAL, SIDE_BY_SIDE
from labsupport.machine import children

SHOW = """
from IPython.display import display
html = '<img alt="ALT" src="data:image/png;base64,BBBB">'
display({"text/html": html, "text/plain": "x"}, raw=True)
"""
STORED = {"text/html": '<img alt="a bar" src="data:image/png;base64,AAAA">', "text/plain": "x"}


def printed(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def picture(alt):
    return SHOW.replace("ALT", alt), nbformat.v4.new_output("display_data", data=STORED), []


# Name -> source, stored output, tags. One notebook holds them all: nbval goes on after a cell that failed.
RIGHT = {
    "the stored output": ("print(1 + 1)", printed("2\n"), []),
    "a measured output": ("import time; print(time.time())", printed("1.0\n"), ["nbval-ignore-output"]),
    "a picture drawn anew": picture("a bar"),
    "few timed runs": ("import os; print(os.environ['LAB_MOST_RUNS'])", printed("2\n"), []),
}
FAULTS = {
    "a wrong output": ("print(1 + 1)", printed("3\n"), []),
    "a missing output": ("print(1 + 1)", None, []),
    "a picture with another text": picture("two bars"),
    "a warning": ("import sys; print('x', file=sys.stderr)", None, []),
    "an error in a measured cell": ("1 / 0", None, ["nbval-ignore-output"]),
    "leaving early": ("raise SystemExit(0)", None, ["nbval-ignore-output"]),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of each cell -> PASSED or FAILED, by nbval as `lab test` calls it; and the exit code."""
    notebook = nbformat.v4.new_notebook()
    cells = RIGHT | FAULTS
    for number, (source, stored, tags) in enumerate(cells.values(), 1):
        cell = nbformat.v4.new_code_cell(source, execution_count=number, metadata={"tags": tags})
        cell.outputs = [stored] if stored else []
        notebook.cells.append(cell)
    folder = tmp_path_factory.mktemp("gate")
    nbformat.write(notebook, folder / "01_a.ipynb")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "--rootdir=.", *NBVAL, "01_a.ipynb"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    results = re.findall(r"^(PASSED|FAILED) 01_a.ipynb::Cell (\d+)", done.stdout, re.MULTILINE)
    found = {int(number): result for result, number in results}
    return {name: found[number] for number, name in enumerate(cells)} | {"exit code": done.returncode}


def test_right_cells_pass(results):
    assert {results[name] for name in RIGHT} == {"PASSED"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails_its_cell_and_the_session(results, name):
    assert results[name] == "FAILED"
    assert results["exit code"] == 1


@pytest.mark.slow
def test_a_kernel_that_dies_in_a_cell_fails_its_notebook_at_once_and_the_others_run(tmp_path):
    for name, source in (("01_a", "import os; os._exit(0)"), ("02_b", "print(6)"), ("03_c", "import json, numpy")):
        cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=[printed("6\n")] if "6" in source else [])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    for name in ("json", "numpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    command = children.python_module("pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", *NBVAL)
    begin = time.monotonic()
    done = subprocess.run([*command, *sorted(path.name for path in tmp_path.glob("*.ipynb"))], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "The kernel died in this cell" in done.stdout
    assert time.monotonic() - begin < 120
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_side_by_side_a_notebooks_cells_share_their_kernel(tmp_path):
    for name in ("01_a", "02_b"):
        cells = [nbformat.v4.new_code_cell("count = 0", execution_count=1)]
        cells += [nbformat.v4.new_code_cell("count += 1", execution_count=number) for number in range(2, 8)]
        cells.append(nbformat.v4.new_code_cell("print(count)", execution_count=8, outputs=[printed("6\n")]))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", *NBVAL]
    command += ["-n", "2", *SIDE_BY_SIDE, "01_a.ipynb", "02_b.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "16 passed" in done.stdout, done.stdout


def test_each_notebook_on_mindspore_may_go_to_another_process_and_a_file_to_one():
    split = nbval_kernels.KernelScheduling._split_scope
    for nodeid, scope in {
        "tests/course/test_notebooks.py::test_a[00]": "tests/course/test_notebooks.py::test_a[00]",
        "tests/test_house.py::test_a[x::y]": "tests/test_house.py",
        "notebooks/00_a.ipynb::Cell 1": "notebooks/00_a.ipynb",
    }.items():
        assert split(None, nodeid) == scope


@pytest.mark.parametrize("deaths", [0, 2])
def test_a_kernel_that_dies_at_its_start_is_started_again(monkeypatch, deaths):
    starts = [RuntimeError("Kernel died")] * deaths + [("manager", "client")]
    assert start_from(starts, monkeypatch) == ("manager", "client")


def test_a_kernel_that_always_dies_is_a_fault(monkeypatch):
    starts = [RuntimeError("Kernel died")] * 4
    with pytest.raises(RuntimeError, match="Kernel died"):
        start_from(starts, monkeypatch)
    assert len(starts) == 1


def start_from(starts, monkeypatch):
    """Starts a kernel where each start gives, or raises, the next of `starts`."""

    def next_start(**options):
        assert options["kernel_name"] == "any"
        assert options["env"]["PATH"]
        if isinstance(start := starts.pop(0), Exception):
            raise start
        return start

    monkeypatch.setattr(nbval_kernels, "start_once", next_start)
    return kernel.start_new_kernel(kernel_name="any")
