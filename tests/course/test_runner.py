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
from labsupport.base.paths import ROOT, lab_dir
from labsupport.course import notebook as notebook_format
from labsupport.course import outcomes, runner
from labsupport.course.console import summarise
from labsupport.course.skip import skip

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
    write_notebook(tmp_path, "01_a", show, "print(os.environ['LAB_BACKEND'], os.environ['LAB_GROUP'])")
    summary = runner.run(folder=tmp_path, parameters={"model": "1e-3", "fast": False})
    assert summary.ok
    assert summary.outcomes[0].cells == 3
    assert printed("01_a") == f"{sys.executable} {tmp_path} 1e-3 torch False\ntorch 01_a\n"


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
    assert [outcome.status for outcome in summary.outcomes] == ["failed", "passed"]
    assert not summary.ok
    failure = summary.outcomes[0].failure
    assert (failure.kind, failure.cell) == ("dependency", 2)
    assert "no_such_module_at_all" in failure.message
    assert summarise(summary).startswith("1 passed, 1 failed, 0 skipped")


@pytest.mark.parametrize("leaving", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_leaving_early_with_success_is_a_failure(tmp_path, leaving):
    write_notebook(tmp_path, "01_a", leaving, "print('unreached')")
    failure = runner.run(folder=tmp_path).outcomes[0].failure
    assert "left before its end" in failure.message
    assert failure.cell == 2


@pytest.mark.parametrize(
    ("dying", "kind"),
    [
        ("import os; os._exit(1)", "crash"),
        ("import faulthandler, ctypes; faulthandler.enable(); ctypes.string_at(0)", "crash"),
        ("import os; os.write(2, b'std::bad_alloc'); os._exit(1)", "memory"),
    ],
)
def test_a_kernel_that_dies_is_told_by_its_last_words(tmp_path, dying, kind):
    write_notebook(tmp_path, "01_a", dying)
    assert runner.run(folder=tmp_path).outcomes[0].failure.kind == kind


@pytest.mark.parametrize(
    ("limits", "word"), [({"cell_timeout": 1}, "a cell took"), ({"timeout": 4}, "the notebook took")]
)
def test_a_cell_and_a_notebook_that_take_too_long_are_stopped(tmp_path, limits, word):
    write_notebook(tmp_path, "01_a", "import time; time.sleep(60)")
    outcome = runner.run(folder=tmp_path, **limits).outcomes[0]
    assert outcome.failure.kind == "timeout"
    assert word in outcome.failure.message
    assert outcome.failure.cell == 2
    assert outcome.seconds < 30


def test_what_the_machine_lacks_is_skipped_with_a_reason_and_counted(tmp_path, monkeypatch):
    reason = "needs CUDA; here: none. An NVIDIA GPU"
    monkeypatch.setattr(runner.doctor, "missing", lambda need: reason if need == "cuda" else None)
    write_notebook(tmp_path, "01_a", needs=["cuda"])
    write_notebook(tmp_path, "02_b", "from labsupport.runner import skip", "skip('no int8 here')")
    summary = runner.run(folder=tmp_path)
    assert [outcome.status for outcome in summary.outcomes] == ["skipped", "passed"]
    assert summary.outcomes[0].reason == reason
    assert summary.outcomes[1].skips == ["no int8 here"]
    assert "1 skipped; 1 parts skipped inside" in summarise(summary)


def test_a_skip_without_a_reason_is_refused():
    with pytest.raises(ValueError, match="needs a reason"):
        skip(" ")


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


def test_the_fingerprint_follows_source_and_parameters_but_not_outputs(tmp_path):
    notebook = runner.read(write_notebook(tmp_path, "01_a", "print(1)"))
    mark = outcomes.fingerprint(notebook, "torch", {})
    assert outcomes.fingerprint(notebook, "mindspore", {}) != mark
    assert outcomes.fingerprint(notebook, "torch", {"model": "base"}) != mark
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    assert outcomes.fingerprint(notebook, "torch", {}) == mark
    notebook["cells"][2]["source"] = "print(2)"
    assert outcomes.fingerprint(notebook, "torch", {}) != mark


def test_a_killed_run_leaves_no_kernel_and_the_next_one_continues(tmp_path):
    mark = tmp_path / "kernel.pid"
    write_notebook(tmp_path, "01_a", "print('a')")
    slow = f"import os, pathlib, time\nm = pathlib.Path({str(mark)!r})"
    slow += "\nif not m.exists():\n    m.write_text(str(os.getpid())); time.sleep(300)"
    write_notebook(tmp_path, "02_b", slow)
    code = f"from pathlib import Path; from labsupport import runner; runner.run(folder=Path({str(tmp_path)!r}))"
    lab = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: mark.exists() and mark.read_text())
    kernel = psutil.Process(int(mark.read_text()))
    os.kill(lab.pid, signal.SIGKILL)
    lab.wait()
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    summary = runner.run(folder=tmp_path)
    assert summary.ok
    assert summary.reused == ["01_a"]
    assert "1 kept from the interrupted run" in summarise(summary)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_two_runs_at_once_are_refused(tmp_path):
    write_notebook(tmp_path, "01_a")
    with outcomes.only_run(), pytest.raises(CourseError, match="Another"):
        runner.run(folder=tmp_path)


def test_the_last_outcome_of_each_notebook_can_be_read_back(tmp_path):
    write_notebook(tmp_path, "01_a", "assert 1 == 2, 'one is not two'")
    summary = runner.run(folder=tmp_path)
    assert outcomes.last_outcomes() == summary.outcomes
    assert outcomes.last_outcomes()[0].failure.kind == "assertion"
    (outcomes.runs_dir() / "01_a.torch.json").write_text('{"notebook": ')
    with pytest.raises(CourseError, match="damaged"):
        outcomes.last_outcomes()
    assert lab_dir() in outcomes.runs_dir().parents


def test_executing_in_place_saves_what_the_format_gate_accepts(tmp_path):
    path = write_notebook(tmp_path, "01_a", "1 + 1", "import os; os.environ['LAB_GROUP']")
    runner.execute_in_place(path)
    text = path.read_text()
    assert notebook_format.check(text) == (text, [])
    assert "'01_a'" in text


def test_a_notebook_that_fails_is_not_saved_in_place(tmp_path):
    path = write_notebook(tmp_path, "01_a", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CourseError, match="was not saved"):
        runner.execute_in_place(path)
    assert path.read_bytes() == before


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
