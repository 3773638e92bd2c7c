"""Processes that the lab starts: what they import, and that they end when the one ends that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from labsupport.base.paths import ROOT
from labsupport.machine import children

posix_only = pytest.mark.skipif(os.name == "nt", reason="nothing watches on Windows")
SLEEP = "import time; time.sleep(300)"
PLANTED = ("__future__", "importlib", "json", "labsupport", "numpy", "runpy", "sitecustomize", "typer", "usercustomize")


@pytest.fixture
def hostile(tmp_path):
    """A folder of modules that leave a mark where they are executed."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    return folder


def executed(tmp_path) -> str:
    path = tmp_path / "executed"
    return path.read_text() if path.exists() else ""


# --- imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", os.pathsep, f"{os.pathsep}/nowhere", "."], ids=["none", "empty", "leading", "."])
@pytest.mark.parametrize(
    "command",
    [
        children.python_code("import json, numpy, labsupport; print(labsupport.__file__)"),
        children.python_module("labsupport", "--version"),
    ],
    ids=["code", "module"],
)
def test_nothing_is_imported_from_the_folder_where_a_child_stands(hostile, tmp_path, monkeypatch, command, path):
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    done = subprocess.run(command, cwd=hostile, env=children.environment(), capture_output=True, text=True)
    assert (done.returncode, executed(tmp_path)) == (0, ""), done.stderr
    assert str(ROOT) in done.stdout or "Speech Inference Lab" in done.stdout


def test_what_a_child_starts_by_itself_imports_nothing_from_there_either(hostile, tmp_path):
    code = f"import subprocess; subprocess.run([sys.executable, '-c', 'import json'], cwd={str(hostile)!r}, check=True)"
    subprocess.run(children.python_code(code), env=children.environment(), check=True)
    assert executed(tmp_path) == ("" if sys.version_info >= (3, 11) else "json ")  # Python 3.10 has no such setting


def test_the_import_path_that_a_user_names_in_full_stays():
    given = os.pathsep.join(["", "/one", "relative", "/two", "."])
    assert children.absolute_only(given) == os.pathsep.join(["/one", "/two"])


def test_arguments_and_the_exit_code_pass_through():
    command = children.python_code("sys.exit(f'{sys.argv[1:]}')", "a b", "{c}")
    done = subprocess.run(children.guarded(command), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "['a b', '{c}']\n")


def test_a_program_that_is_not_there_is_an_error_before_anything_starts():
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        children.guarded(["no-such-program"])


# --- ends -------------------------------------------------------------------------------------------------------------

# A parent with a child, in a session of its own or not, that has a child in turn; all of them write their numbers down.
PARENT = """
import os, subprocess, sys
from labsupport.machine import children
grandchild = {sleep!r}
child = "import os, subprocess, sys; g = subprocess.Popen([sys.executable, '-c', sys.argv[1]]);"
child += "print(os.getpid(), g.pid, flush=True);" + sys.argv[2]
command = children.guarded([sys.executable, "-c", child, grandchild])
subprocess.Popen(command, start_new_session=sys.argv[1] == "own")
{sleep}
"""
BUSY = "import ctypes; ctypes.PyDLL(None).sleep(300)"  # holds the interpreter's lock: no thread of its own could look


def start_family(session: str, child: str = SLEEP) -> tuple[subprocess.Popen, list[psutil.Process]]:
    code = PARENT.format(sleep=SLEEP).replace("sys.argv[2]", repr(child))
    parent = subprocess.Popen([sys.executable, "-c", code, session], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    numbers = [int(number) for number in parent.stdout.readline().split()]
    return parent, [psutil.Process(number) for number in numbers]


def wait_for_ends(processes, seconds: float = 5) -> list[psutil.Process]:
    """Those of the processes that are still there after these seconds."""
    end = time.monotonic() + seconds
    while left := [each for each in processes if is_there(each)]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return left


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@posix_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("session", "child"), [("own", SLEEP), ("same", SLEEP), ("own", BUSY)])
def test_a_child_and_its_children_end_with_the_parent(number, session, child):
    parent, family = start_family(session, child)
    parent.send_signal(number)
    assert wait_for_ends(family) == []  # though nobody has asked for the parent's exit code yet
    parent.communicate()


@posix_only
def test_what_a_child_starts_while_it_is_looked_for_ends_with_it(monkeypatch):
    seen, stopped = iter([[1], [1, 2], [1, 2, 3], [1, 2, 3]]), []
    monkeypatch.setattr(children, "find_descendants", lambda leader: next(seen))
    monkeypatch.setattr(children, "end", lambda kill, process, by: stopped.append((process, by)))
    assert children.halt(1) == [1, 2, 3]
    assert stopped == [(process, signal.SIGSTOP) for process in (1, 2, 3)]


@posix_only
def test_what_descendants_start_while_they_are_looked_for_ends_with_them(monkeypatch):
    own = os.getpid()
    seen, done = iter([[own, 2], [own, 2, 3], [own, 2, 3]]), []
    monkeypatch.setattr(children, "find_descendants", lambda leader: next(seen))
    monkeypatch.setattr(children, "end", lambda kill, process, by=signal.SIGKILL: done.append((process, by)))
    children.end_descendants()
    assert done == [(process, by) for by in (signal.SIGSTOP, signal.SIGKILL) for process in (2, 3)]


@posix_only
def test_a_child_that_is_killed_leaves_none_of_its_group():
    parent, (child, grandchild) = start_family("own")
    child.kill()
    assert wait_for_ends([grandchild]) == []
    parent.kill()
    parent.communicate()


@posix_only
def test_a_child_has_no_other_children_than_its_own():
    parent, (child, grandchild) = start_family("own")
    try:
        assert child.children() == [grandchild]
    finally:
        parent.kill()
        parent.communicate()


@posix_only
def test_a_process_of_a_pool_ends_with_the_parent(tmp_path):
    pid = tmp_path / "pid"
    (tmp_path / "pool_work.py").write_text(
        f"import os, time\ndef work():\n    open({str(pid)!r}, 'w').write(str(os.getpid()))\n    time.sleep(300)\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import pool_work
from labsupport.machine import children
with ProcessPoolExecutor(1, get_context("spawn"), initializer=children.end_with_parent) as pool:
    pool.submit(pool_work.work).result()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    end = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    worker = psutil.Process(int(pid.read_text()))
    parent.kill()
    parent.wait()
    assert wait_for_ends([worker]) == []


@posix_only
def test_a_process_that_a_library_started_ends_with_its_parent(tmp_path):
    code = f"""
import subprocess, sys
from labsupport.machine import children
started = [subprocess.Popen([sys.executable, "-c", {SLEEP!r}]) for _ in range(2)]
children.end_with_this(started[0].pid)
print(*(process.pid for process in started), flush=True)
{SLEEP}
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    watched, other = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
    parent.kill()
    parent.wait()
    try:
        assert wait_for_ends([watched]) == []
        assert other.is_running()  # else something else had ended both
    finally:
        other.kill()


@posix_only
def test_without_help_of_the_system_the_watcher_looks_itself(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(children.sys, "platform", "other")
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    begin = time.monotonic()
    children.wait_for_end(os.getpid(), process.pid)
    assert time.monotonic() - begin < 5


@posix_only
def test_all_descendants_can_be_ended():
    parent, family = start_family("own")
    assert {each.pid for each in family} <= set(children.find_descendants(os.getpid()))
    children.end_descendants()
    assert wait_for_ends([*family, psutil.Process(parent.pid)]) == []
    parent.communicate()


@posix_only
def test_processes_are_listed_where_there_is_no_proc():
    if not any((Path(folder) / "ps").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("needs ps")
    look = """
import os
from labsupport.machine import children
children.os.path.exists = lambda path: False
assert (os.getpid(), os.getppid()) in children.list_processes()
assert children.find_descendants(os.getpid()) == [os.getpid()]  # `ps` itself is none
child = os.posix_spawn("/bin/sleep", ["sleep", "300"], {})
assert children.find_descendants(os.getpid()) == [os.getpid(), child]
os.kill(child, 9)
"""  # in a process of its own: this one may have other children, which earlier tests started
    subprocess.run(children.python_code(look), check=True)
