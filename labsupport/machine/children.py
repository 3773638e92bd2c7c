"""Processes that the lab starts: they run nothing of the folder where they stand, and end when it ends.

Run as a program, this file watches over a process, in place of which a command may then be executed:

    children.py PARENT COMMAND...   becomes the command, which ends with PARENT
    children.py PARENT --watch PID  watches over a process that runs already

A signal that ends the parent can leave it no time to end its children, so another process does that: it waits for the
end of either of the two, and then ends the child with all that it started. Nothing watches on Windows.
"""

# The standard library alone, and little of it: every child waits for these imports.
from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence

IN_PLACE = """
import sys
sys.path[:] = [place for place in sys.path if place]
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("labsupport", {init!r}, submodule_search_locations=[{package!r}])
sys.modules["labsupport"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
del spec, package, module_from_spec, spec_from_file_location
"""
RUN_MODULE = "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = 0.5  # between two looks, where a system cannot say that a process has ended


# --- commands ---------------------------------------------------------------------------------------------------------


def python_code(code: str, *arguments: str, python: str | None = None) -> list[str]:
    """The command that executes `code`; nothing is imported from the folder where it stands.

    `labsupport` is this one, whatever is installed. python: another interpreter than this one.
    """
    own = IN_PLACE.format(init=os.path.join(PACKAGE, "__init__.py"), package=PACKAGE)
    return [python or sys.executable, "-c", own + code, *arguments]


def python_module(name: str, *arguments: str) -> list[str]:
    """`python -m NAME`, but nothing is imported from the folder where it stands."""
    return python_code(RUN_MODULE, name, *arguments)


def guarded(command: Sequence[str | os.PathLike]) -> list[str]:
    """The command, which ends with this process. Raises FileNotFoundError where there is no such program."""
    arguments = [os.fspath(part) for part in command]
    if shutil.which(arguments[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])
    return arguments if os.name == "nt" else [*start_watcher(os.getpid()), *arguments]


def start_watcher(parent: int) -> list[str]:
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(parent)]


def environment(**added: str) -> dict[str, str]:
    """This process's variables for a child, which imports nothing from the folder where it stands, nor do its own."""
    env = {**os.environ, "PYTHONSAFEPATH": "1", **added}  # Python 3.10 does not know it
    # An empty one counts as none; it also takes the place of another where Jupyter adds these to what it finds.
    return {**env, "PYTHONPATH": absolute_only(env.get("PYTHONPATH", ""))}


def absolute_only(path: str) -> str:
    """PYTHONPATH without what is relative or empty, which means the folder where a process stands."""
    return os.pathsep.join(place for place in path.split(os.pathsep) if os.path.isabs(place))


def end_with_parent() -> None:
    """For a process that was started in another way, such as by multiprocessing: ends it when its parent ends."""
    watch_apart(os.getppid(), os.getpid())


def end_with_this(process: int) -> None:
    """Ends a process that runs already, as a library has started it, and all below it, when this one ends."""
    watch_apart(os.getpid(), process)


def watch_apart(parent: int, leader: int) -> None:
    if os.name != "nt":
        command = [*start_watcher(parent), "--watch", str(leader)]
        os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)  # it leaves another one behind


def end_descendants() -> None:
    """Ends all that this process has started and that still runs; not on Windows."""
    if os.name != "nt":
        for process in halt(os.getpid(), itself=False):
            end(os.kill, process)


# --- watching ---------------------------------------------------------------------------------------------------------


def main(parent: str, *command: str) -> None:
    """Leaves a watcher behind, and becomes the command."""
    leader = int(command[1]) if command[0] == "--watch" else os.getpid()
    if command[0] != "--watch" and os.getppid() != int(parent):
        sys.exit(f"The process {parent} ended before it could start {command[0]}.")
    detach(int(parent), leader)
    if command[0] != "--watch":
        os.execvp(command[0], command)


def detach(parent: int, leader: int) -> None:
    """Starts the watcher: no child of the leader, which may wait for all of them, and no member of its session."""
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            let_go()
            watch(parent, leader)
        os._exit(0)
    os.waitpid(child, 0)


def let_go() -> None:
    """Holds no folder, and no pipe at whose end somebody may wait."""
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.closerange(3, 1024)


def watch(parent: int, leader: int) -> None:
    """Waits until one of the two has ended, then ends the leader, and what it started."""
    try:
        group = leader if os.getpgid(leader) == leader else None
        wait_for_end(parent, leader)
        for process in halt(leader):
            end(os.kill, process)
        if group:  # also holds those whose parents have ended
            end(os.killpg, group)
    except ProcessLookupError:
        return


def halt(leader: int, itself: bool = True) -> list[int]:
    """Stops the process (unless not `itself`) and all that it started, which then start no more; what began while it
    was looked for, too.
    """
    halted: list[int] = []
    spared = set() if itself else {leader}
    while new := [process for process in find_descendants(leader) if process not in spared.union(halted)]:
        for process in new:
            end(os.kill, process, signal.SIGSTOP)
        halted += new
    return halted


def end(kill, process: int, by: int = signal.SIGKILL) -> None:
    try:
        kill(process, by)
    except OSError:  # it has ended, or is not ours
        return


def wait_for_end(*processes: int) -> None:
    """Returns when one of the processes has ended, even if nobody has asked for its exit code yet."""
    try:
        if hasattr(os, "pidfd_open"):  # Linux
            select.select([os.pidfd_open(process) for process in processes], [], [])
            return
        if sys.platform == "darwin":
            flags = (select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT)
            select.kqueue().control([select.kevent(process, *flags) for process in processes], 1)
            return
    except ProcessLookupError:
        return
    except OSError:  # an old kernel, or a sandbox that forbids it
        pass
    while all(map(is_there, processes)):
        time.sleep(SECONDS)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def find_descendants(leader: int) -> list[int]:
    """The process, its children, theirs, and so on, of those that are there now."""
    children: dict[int, list[int]] = {}
    for process, parent in list_processes():
        children.setdefault(parent, []).append(process)
    found = [leader]
    for process in found:
        found += children.get(process, [])
    return found


def list_processes() -> list[tuple[int, int]]:
    """Each process and its parent."""
    if not os.path.exists("/proc/self/stat"):
        import subprocess

        with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as listing:
            pairs = [tuple(map(int, line.split())) for line in listing.stdout or ()]
        return [(process, parent) for process, parent in pairs if process != listing.pid]  # it is always new
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [(process, parent) for process in numbers if (parent := read_parent(process))]


def read_parent(process: int) -> int | None:
    """Linux's number of its parent; None where it has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])  # its name, before that, may hold anything
    except OSError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
