"""The workers' protocol: what a worker answers, and what the benchmark says of one that dies or answers nonsense."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from stand_ins import script

from labsupport.base.errors import BenchError
from labsupport.machine import children
from labsupport.results import rows, worker
from labsupport.results.worker import Worker


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Starts a worker for a module with tasks of its own."""
    (tmp_path / "planted_tasks.py").write_text(
        "import os\n"
        "def make_tasks(text):\n"
        "    print('a library greets')\n"
        "    return {'say': lambda: text, 'die': lambda: os._exit(3), 'fail': lambda: 1 / 0}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda text: worker.start(f"worker {text}", "planted_tasks", text, backend="torch")


def test_a_worker_names_its_tasks_times_them_and_writes_rows(planted):
    with planted("a") as one:
        assert one.tasks == ["say", "die", "fail"]
        wall, cpu, result = one.run("say")
        assert 0 <= cpu <= wall + 1 < 10
        assert result == "a"
        one.record("a test: planted", 1.5, "s", group="planted", runs=3)
    assert one.process.wait(timeout=10) == 0
    (row,) = rows.read_rows(rows.results_dir())
    assert (row.what, row.value, row.runs, row.backend) == ("a test: planted", 1.5, 3, "torch")
    assert row.run_id == rows.run_id()


@pytest.mark.parametrize(("task", "code"), [("die", 3), ("fail", 1)])
def test_a_worker_that_dies_is_named_with_its_exit_code(planted, task, code):
    with planted("a") as one:
        with pytest.raises(BenchError, match=f"worker a ended with code {code}"):
            one.run(task)
        with pytest.raises(BenchError, match="ended"):
            one.run("say")


def test_a_worker_that_cannot_start_says_so():
    with pytest.raises(BenchError, match="ended with code 1"):
        worker.start("nobody", "no_such_module", backend="torch")


def test_a_worker_that_answers_nonsense_is_stopped():
    code = "print('[\"say\"]', flush=True); input(); print('Loading model ...', flush=True); input()"
    with Worker("strange", [sys.executable, "-c", code]) as one:
        with pytest.raises(BenchError, match="no JSON") as raised:
            one.run("say")
        assert raised.value.where == "Loading model ..."
        assert one.process.wait(timeout=10) != 0


def test_a_worker_whose_task_goes_on_is_ended_by_an_error_of_ours():
    code = "print('[\"sleep\"]', flush=True); import time; time.sleep(300)"
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Worker("asleep", [sys.executable, "-c", code]) as one:
        raise KeyboardInterrupt
    assert one.process.returncode != 0
    assert time.monotonic() - begin < 60


def test_a_worker_that_still_loads_is_ended_by_an_error_of_ours(monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: started.append(popen(*args, **named)) or started[0])
    monkeypatch.setattr(Worker, "read", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Worker("loads", [sys.executable, "-c", "import time; time.sleep(300)"])
    assert started[0].wait(timeout=10) != 0


def test_a_worker_whose_answer_nobody_reads_ends_without_a_word(tmp_path):
    (tmp_path / "nothing_to_do.py").write_text("def make_tasks():\n    input()\n    return {'nothing': None}\n")
    process = subprocess.Popen(
        children.python_code(worker.SERVE, "nothing_to_do"), env=children.environment(PYTHONPATH=str(tmp_path)),
        stdin=-1, stdout=-1, stderr=-1,
    )  # fmt: skip
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 1)
    process.stderr.close()


def test_a_worker_imports_nothing_from_the_folder_where_it_is_started(planted, tmp_path, monkeypatch):
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("json", "numpy", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    monkeypatch.setattr(worker, "ROOT", folder)
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}")
    with planted("a") as one:
        assert one.run("say")[2] == "a"
    assert not (tmp_path / "executed").exists()


BURN = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"


def test_the_cpu_time_of_what_a_task_starts_is_counted():
    def ended():
        subprocess.run([sys.executable, "-c", BURN], check=True)

    wall, cpu, _ = worker.time_task(ended)
    assert 0.4 <= cpu <= wall + 0.5
    running = subprocess.Popen([sys.executable, "-c", BURN + "\nprint(1, flush=True)\ntime.sleep(60)"], stdout=-1)
    _, cpu, _ = worker.time_task(running.stdout.readline)
    running.kill()
    running.communicate()
    assert cpu > 0.2  # what it burned before the task began does not count
    assert worker.time_task(lambda: time.sleep(0.3))[1] < 0.3


def test_messages_go_to_a_log_and_an_error_quotes_the_last(planted, tmp_path):
    log = tmp_path / "log"
    with (
        worker.start("logged", "planted_tasks", "a", backend="torch", log=log) as one,
        pytest.raises(BenchError, match="ended with code 1") as raised,
    ):
        one.run("fail")
    assert raised.value.where == "ZeroDivisionError: division by zero"
    assert raised.value.hint is None
    assert "a library greets" in log.read_text()


def test_another_interpreter_and_variables_are_the_workers_own(tmp_path, monkeypatch):
    (tmp_path / "where_tasks.py").write_text(
        "import os\ndef make_tasks():\n"
        "    return {'where': lambda: [os.environ[name] for name in ('PLANTED_BY', 'PLANTED', 'LAB_BACKEND')]}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = script(tmp_path / "other", f'PLANTED_BY=other exec {sys.executable} "$@"')
    with worker.start("other", "where_tasks", backend="torch", python=str(other), PLANTED="yes") as one:
        assert one.run("where")[2] == ["other", "yes", "torch"]


# --- comparing --------------------------------------------------------------------------------------------------------


class Scripted:
    """A worker that answers from a list of (wall, CPU seconds, result)."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, task):
        return self.answers.pop(0)


def test_workers_take_turns_and_the_first_runs_do_not_count():
    first = (9.0, 9.0, "x")
    workers = {
        "a": Scripted(first, (1.0, 0.5, "x"), (2.0, 0.5, "x")),
        "b": Scripted(first, (3.0, 0.5, "x"), (4.0, 0.75, "x")),
    }
    timed = worker.compare(workers, "say", runs=2)
    assert timed["a"].wall == (1.0, 2.0)
    assert (timed["b"].wall, timed["b"].cpu) == ((3.0, 4.0), (0.5, 0.75))


def test_results_that_differ_are_an_error():
    workers = {"a": Scripted((1.0, 1.0, "x")), "b": Scripted((1.0, 1.0, "y"))}
    with pytest.raises(BenchError, match="say: the results differ"):
        worker.compare(workers, "say", runs=2)
