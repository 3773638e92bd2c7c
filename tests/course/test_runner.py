import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from labsupport.base.errors import CourseError
from labsupport.base.paths import ROOT
from labsupport.course import kernels, outcomes, runner
from labsupport.course import notebook as notebook_format
from labsupport.course.console import summarise

pytestmark = pytest.mark.slow  # every test starts a kernel
LAB = {"promise": "A test.", "minutes": 1, "needs": [], "backends": ["torch"], "articles": []}
PARAMETERS = 'backend = ""\nmodel = "tiny.en"\nclip = "jfk"\nfast = True'


@pytest.fixture(autouse=True)
def no_chosen_backend(monkeypatch):
    monkeypatch.delenv("LAB_BACKEND", raising=False)


def write_notebook(folder, name, *sources, **lab):
    cells = [nbformat.v4.new_markdown_cell("# A test")]
    cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"lab": LAB | lab}), path)
    return path


def printed(name, backend="torch"):
    cells = notebook_format.code_cells(runner.read(outcomes.runs_dir() / f"{name}.{backend}.ipynb"))
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "".join(notebook_format.joined(output["text"]) for output in outputs if "text" in output)


def test_a_notebook_runs_in_this_interpreter_in_its_folder_with_its_parameters(tmp_path, monkeypatch):
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "wrong", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    show = "import os, sys\nprint(sys.executable, os.getcwd(), model, backend, fast)"
    write_notebook(
        tmp_path, "01_a", show, "print(*map(os.environ.get, ('LAB_BACKEND', 'LAB_GROUP', 'LAB_STATIC_PAGE')))"
    )
    summary = runner.run(folder=tmp_path, parameters={"model": "1e-3", "fast": False})
    assert summary.ok
    assert summary.results[0].cells == 3
    assert printed("01_a") == f"{sys.executable} {tmp_path} 1e-3 torch False\ntorch 01_a 1\n"


def test_an_unknown_parameter_stops_the_run_before_anything_is_executed(tmp_path):
    write_notebook(tmp_path, "01_a", "print('ran')")
    with pytest.raises(CourseError, match="no parameter 'modle'"):
        runner.run(folder=tmp_path, parameters={"modle": "base"})
    assert not outcomes.runs_dir().exists()


def test_an_unknown_or_ambiguous_notebook_name_is_refused_and_a_number_is_enough(tmp_path):
    path = write_notebook(tmp_path, "01_a")
    assert runner.find_notebooks(["01"], tmp_path) == runner.find_notebooks(["01_a"], tmp_path) == [path]
    with pytest.raises(CourseError, match="'02'"):
        runner.find_notebooks(["02"], tmp_path)
    with pytest.raises(CourseError, match="no notebooks"):
        runner.find_notebooks(folder=tmp_path / "empty")


def test_a_failing_cell_fails_the_notebook_with_its_kind_and_the_others_go_on(tmp_path):
    write_notebook(tmp_path, "01_a", "import no_such_module_at_all", "print('unreached')")
    write_notebook(tmp_path, "02_b", "print('b')")
    summary = runner.run(folder=tmp_path)
    assert [result.status for result in summary.results] == ["failed", "passed"]
    assert not summary.ok
    failure = summary.results[0].failure
    assert (failure.kind, failure.cell) == ("dependency", 2)
    assert "no_such_module_at_all" in failure.message
    assert summarise(summary).startswith("1 passed, 1 failed, 0 skipped")


def test_leaving_early_with_success_is_a_failure(tmp_path):
    write_notebook(tmp_path, "01_a", "import sys; sys.exit()", "print('unreached')")
    failure = runner.run(folder=tmp_path).results[0].failure
    assert "left before its end" in failure.message
    assert failure.cell == 2


@pytest.mark.parametrize(
    ("dying", "kind"),
    [
        ("import faulthandler, ctypes; faulthandler.enable(); ctypes.string_at(0)", "crash"),
        ("import os; os.write(2, b'std::bad_alloc'); os._exit(1)", "memory"),
    ],
)
def test_a_kernel_that_dies_is_classed_by_what_it_wrote_last(tmp_path, dying, kind):
    write_notebook(tmp_path, "01_a", dying)
    assert runner.run(folder=tmp_path).results[0].failure.kind == kind


@pytest.mark.parametrize(
    ("limits", "word"), [({"cell_timeout": 1}, "a cell took"), ({"timeout": 4}, "the notebook took")]
)
def test_a_cell_and_a_notebook_that_take_too_long_are_stopped(tmp_path, limits, word):
    write_notebook(tmp_path, "01_a", "import time; time.sleep(60)")
    result = runner.run(folder=tmp_path, **limits).results[0]
    assert result.failure.kind == "timeout"
    assert word in result.failure.message
    assert result.failure.cell == 2
    assert result.seconds < 30


def test_what_the_machine_lacks_is_skipped_with_a_reason_and_counted(tmp_path, monkeypatch):
    reason = "needs CUDA; here: none. An NVIDIA GPU"
    monkeypatch.setattr(runner.doctor, "missing", lambda need: reason if need == "cuda" else None)
    write_notebook(tmp_path, "01_a", needs=["cuda"])
    write_notebook(tmp_path, "02_b", "from labsupport.course.skip import skip", "skip('no int8 here')")
    summary = runner.run(folder=tmp_path)
    assert [result.status for result in summary.results] == ["skipped", "passed"]
    assert summary.results[0].reason == reason
    assert summary.results[1].skips == ["no int8 here"]
    assert "1 skipped; 1 parts skipped inside" in summarise(summary)


def test_the_backend_is_the_chosen_one_or_the_one_that_the_notebook_is_written_for(monkeypatch):
    monkeypatch.setattr(runner.doctor, "missing", lambda need: None)
    notebook = {"metadata": {"lab": LAB | {"backends": ["mindspore"]}}}
    assert runner.backend_for(notebook) == ("mindspore", None)
    backend, reason = runner.backend_for(notebook, "torch")
    assert (backend, reason) == ("torch", "written for mindspore; this run uses torch")


def test_a_run_after_a_complete_one_starts_afresh_and_a_changed_notebook_is_run_again(tmp_path):
    write_notebook(tmp_path, "01_a", "print('one')")
    assert runner.run(folder=tmp_path).reused == []
    assert runner.run(folder=tmp_path).reused == []
    state = outcomes.runs_dir() / "run.json"
    state.write_text(state.read_text().replace("true", "false"))
    assert runner.run(folder=tmp_path).reused == ["01_a"]
    state.write_text(state.read_text().replace("true", "false"))
    write_notebook(tmp_path, "01_a", "print('two')")
    assert runner.run(folder=tmp_path).reused == []
    assert printed("01_a") == "two\n"


def test_a_killed_run_leaves_no_kernel_and_the_next_one_continues(tmp_path):
    mark = tmp_path / "kernel.pid"
    write_notebook(tmp_path, "01_a", "print('a')")
    slow = f"import os, pathlib, time\nm = pathlib.Path({str(mark)!r})"
    slow += "\nif not m.exists():\n    m.write_text(str(os.getpid())); time.sleep(300)"
    write_notebook(tmp_path, "02_b", slow)
    code = f"from pathlib import Path; from labsupport.course import runner; runner.run(folder=Path({str(tmp_path)!r}))"
    lab = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: mark.exists() and mark.read_text())
    kernel = psutil.Process(int(mark.read_text()))
    os.kill(lab.pid, signal.SIGKILL)
    lab.wait()
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    summary = runner.run(folder=tmp_path)
    assert summary.ok
    assert summary.reused == ["01_a"]
    assert "1 taken over from the interrupted run" in summarise(summary)


STARTS = {  # what a kernel may do before it answers, planted where Python looks first
    "it dies": "import os; os._exit(3)",
    "it is killed": "import os; os.kill(os.getpid(), 9)",
    "it refuses": "raise SystemExit('no licence')",
    "its import fails": "raise ImportError('no zmq')",
}


@pytest.mark.parametrize("start", STARTS)
def test_a_kernel_that_does_not_start_is_its_notebooks_failure_and_the_others_run(tmp_path, monkeypatch, start):
    trap, armed = tmp_path / "trap", tmp_path / "armed"
    trap.mkdir()
    (trap / "ipykernel_launcher.py").write_text(
        f"from pathlib import Path\nif Path({str(armed)!r}).exists():\n    Path({str(armed)!r}).unlink()\n"
        f"    {STARTS[start]}\nfrom ipykernel import kernelapp\nkernelapp.launch_new_instance()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(trap))
    armed.touch()
    for name in ("01_a", "02_b"):
        write_notebook(tmp_path, name, "print('ran')")
    results = runner.run(folder=tmp_path).results
    assert [result.status for result in results] == ["failed", "passed"]
    assert "Kernel died" in results[0].failure.message
    assert results[0].failure.cell is None


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), RuntimeError("x"), KeyError("y")])
def test_whatever_the_executor_raises_is_one_notebooks_failure(tmp_path, monkeypatch, error):
    import papermill

    def refuse(*arguments, **options):
        raise error

    for name in ("01_a", "02_b"):
        write_notebook(tmp_path, name, "1")
    monkeypatch.setattr(papermill, "execute_notebook", refuse)
    results = runner.run(folder=tmp_path).results
    assert [result.status for result in results] == ["failed", "failed"]
    assert type(error).__name__ in results[1].failure.message


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[]", b'{"nbformat": 4, "metadata": {}, "cells": [{}]}'])
def test_what_is_no_notebook_is_not_executed_in_place(tmp_path, content):
    (tmp_path / "01_a.ipynb").write_bytes(content)
    with pytest.raises(CourseError, match="notebook"):
        runner.execute_in_place(tmp_path / "01_a.ipynb")
    assert (tmp_path / "01_a.ipynb").read_bytes() == content


def test_a_notebook_without_a_cell_for_parameters_is_its_own_failure(tmp_path):
    """`./lab run` always gives one, `fast`."""
    write_notebook(tmp_path, "02_b", "print('ran')")
    bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")], metadata={"lab": LAB})
    nbformat.write(bare, tmp_path / "01_a.ipynb")
    results = runner.run(folder=tmp_path, parameters={"fast": True}).results
    assert [result.status for result in results] == ["failed", "passed"]
    assert "no cell tagged `parameters`" in results[0].failure.message


LAB_METADATA = [
    [],
    None,
    {"backends": []},
    {"backends": "torch"},
    {"needs": 5},
    {"needs": [{}]},
    {"needs": ["a unicorn"]},
]


@pytest.mark.parametrize("lab", LAB_METADATA)
def test_metadata_that_the_lab_cannot_read_are_named_as_the_reason(tmp_path, lab):
    path = write_notebook(tmp_path, "01_a", "1")
    notebook = json.loads(path.read_text())
    notebook["metadata"]["lab"] = lab
    path.write_text(json.dumps(notebook))
    failure = runner.run(folder=tmp_path).results[0].failure
    assert failure.message.startswith(
        ("This is no notebook: its metadata for the lab", "The notebook needs 'a unicorn'", "The notebook names no")
    )


def test_of_what_a_kernel_wrote_only_the_end_is_read(tmp_path):
    log = kernels.KernelLog(tmp_path / "a.log")
    log.path.write_bytes(b"x" * 10_000 + b"\xffthe last words")
    assert runner.describe_failure(RuntimeError("dead"), log).message.endswith("x\ufffdthe last words")
    assert len(log.read_end()) == 500


@pytest.mark.parametrize("kind", ["stream", "display_data", "error"])
def test_a_message_without_its_content_is_named_and_the_others_run(tmp_path, kind):
    send = f"k = get_ipython().kernel\nk.session.send(k.iopub_socket, {kind!r}, {{}}, parent=k.get_parent())"
    write_notebook(tmp_path, "01_a", f"{send}\nimport time; time.sleep(1)")
    write_notebook(tmp_path, "02_b", "1")
    results = runner.run(folder=tmp_path).results
    assert [result.status for result in results] == ["failed", "passed"]
    assert f"The kernel sent a message ('{kind}') that cannot be read" in results[0].failure.message


def test_what_a_kernels_child_writes_without_end_fills_neither_terminal_nor_disk(tmp_path, capfd):
    write_notebook(tmp_path, "01_a", "import subprocess; subprocess.run('yes the end >&2 & yes', shell=True)")
    write_notebook(tmp_path, "02_b", "1")
    results = runner.run(folder=tmp_path, cell_timeout=5).results
    assert [result.status for result in results] == ["failed", "passed"]
    assert results[0].failure.kind == "timeout"
    assert len(capfd.readouterr().out) < 10_000
    assert (outcomes.runs_dir() / "01_a.torch.log").stat().st_size < 1.2e6


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[]", b'{"nbformat": 4, "metadata": {}, "cells": [{}]}'])
def test_a_damaged_notebook_is_its_own_failure_and_the_others_run(tmp_path, content):
    (tmp_path / "01_a.ipynb").write_bytes(content)
    write_notebook(tmp_path, "02_b", "print('ran')")
    results = runner.run(folder=tmp_path, parameters={"fast": True}).results
    assert [result.status for result in results] == ["failed", "passed"]
    assert "notebook" in results[0].failure.message


def test_a_kernel_executes_nothing_that_lies_in_its_folder(tmp_path, monkeypatch):
    for name in ("json", "numpy", "sitecustomize", "IPython", "labsupport", "runpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path, "01_a", "import json, numpy, labsupport; print(labsupport.__file__)")
    assert runner.run(folder=tmp_path).ok
    assert printed("01_a") == f"{ROOT / 'labsupport' / '__init__.py'}\n"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("source", "part"),
    [("while True: print('x' * 10_000)", 0.1), ("while True: display('x')", 0.1), ("print('x' * 30_000_000)", 1),
     ("for i in range(10**4): print(i, flush=True)\nraise ValueError('x' * 10**7)", 0.1)],
    ids=["lines", "outputs", "one line", "an error at the end"],
)  # fmt: skip
def test_what_a_cell_prints_is_bounded(tmp_path, monkeypatch, source, part):
    """Where it is messages that reach the limits, these are a part of the real ones: each costs the client time."""
    for limit in ("OUTPUT_BYTES", "OUTPUTS"):
        monkeypatch.setattr(kernels, limit, int(part * getattr(kernels, limit)))
    write_notebook(tmp_path, "01_a", source)
    runner.run(folder=tmp_path, cell_timeout=5 if "while" in source else 60)
    path = outcomes.runs_dir() / "01_a.torch.ipynb"
    assert path.stat().st_size < part * 15e6
    assert "the rest is left out" in path.read_text(encoding="utf-8")


def test_an_errors_escape_codes_are_stripped(tmp_path):
    write_notebook(tmp_path, "01_a", "raise ValueError('\\x1b[31mred\\x1b]0;title\\x07')")
    assert runner.run(folder=tmp_path).results[0].failure.message == "ValueError: red"


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_executing_in_place_saves_what_the_format_gate_accepts(tmp_path):
    path = write_notebook(
        tmp_path, "01_a", "1 + 1", "import os; os.environ['LAB_GROUP'], os.environ['LAB_STATIC_PAGE']"
    )
    runner.execute_in_place(path)
    text = path.read_text()
    assert notebook_format.dump(notebook_format.canonical(notebook_format.parse(text))) == text
    assert "('01_a', '1')" in text


def test_a_notebook_that_fails_is_not_saved_in_place(tmp_path):
    path = write_notebook(tmp_path, "01_a", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CourseError, match="was not saved"):
        runner.execute_in_place(path)
    assert path.read_bytes() == before
