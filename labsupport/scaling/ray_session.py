"""Ray, started for one piece of work and gone after it: on this machine alone, or as a guest of a cluster.

A local session listens on the loopback address alone, has no dashboard, sends no statistics, and imports nothing from
the folder where the user stands. Its processes end with this one, whatever ends it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil

from labsupport.base.errors import NotAvailable, ScalingError
from labsupport.base.paths import ROOT, cache_dir
from labsupport.machine import children
from labsupport.machine.backend import is_installed
from labsupport.profiling.redirect import redirect_output

PREFIX = "lab-ray-"
LONGEST_TEMP = 40  # characters; Ray's sockets lie below, and a socket's path may have 107 (Linux) or 103 (macOS)
OBJECT_STORE = 200 << 20  # bytes; items and rows are small, sound never passes through
TRIES = 3  # to start
SECONDS = 5  # that its processes get to end
ANSWER = 10  # seconds that a cluster gets to answer; Ray itself would try for minutes
SETTINGS = 4  # the type of the frame with which both sides of HTTP/2 begin
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on any system: the one way to loopback addresses alone
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers see the GPUs that this process sees
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "0",  # else messages come again when this process ends
}


@contextlib.contextmanager
def ray_session(workers: int, address: str | None = None) -> Iterator[None]:
    """Inside it Ray runs, here with so many logical CPUs, or on the cluster at `address` ("auto", HOST:PORT).

    Where this process has a session already, that one is used, and stays.

    Raises:
        NotAvailable: Ray is not installed.
        ScalingError: the cluster does not answer.
    """
    if not is_installed("ray"):
        raise NotAvailable("Ray is not installed.", hint="Run ./lab again: it installs what is missing.")
    own = {} if address else LOCAL_ONLY | {"LAB_CACHE": str(cache_dir())}  # workers stand in another folder
    with variables(VARIABLES | own):
        import ray

        quieten()
        if ray.is_initialized():
            yield
            return
        with guest_session(address) if address else local_session(workers):
            yield


@contextlib.contextmanager
def local_session(workers: int) -> Iterator[None]:
    import ray

    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=choose_temp()))
    before = find_processes()
    try:
        start_local(workers, folder, before)
        for process in find_processes() - before:  # each: what a process of Ray's has started may outlive it
            children.end_with_this(process.pid)
        yield
    finally:
        started = find_processes() - before
        ray.shutdown()
        end_processes(started)
        shutil.rmtree(folder, ignore_errors=True)


def start_local(workers: int, folder: Path, before: set[psutil.Process]) -> None:
    """Starts Ray's processes; again, where they did not come up within the 30 s that Ray itself allows them.

    Args:
        before: processes that are none of Ray's.
    """
    import ray

    for attempt in range(TRIES):
        with standing_in(folder), loopback_alone(), redirect_output(folder / "start.log"):
            try:
                ray.init(
                    "local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
                    logging_level=logging.CRITICAL, object_store_memory=OBJECT_STORE, _temp_dir=str(folder),
                    configure_logging=False,
                )  # fmt: skip
                return
            except Exception as error:  # Ray raises a bare one
                ray.shutdown()
                end_processes(find_processes() - before, patience=0)
                if attempt + 1 == TRIES:
                    hint = "Is the machine too busy, or short of memory? Ray needs about 1 GB beside the models."
                    raise ScalingError(f"Ray did not start: {error}", hint=hint) from error


@contextlib.contextmanager
def loopback_alone() -> Iterator[None]:
    """For `ray.init`: LOCAL_ONLY, also where Ray was imported before, as a notebook's cell may do.

    It reads the variable at its import, and takes no loopback address that it is given: there is no public way.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def guest_session(address: str) -> Iterator[None]:
    import ray

    import labsupport

    check_answer(address)
    try:
        # the cluster's machines have the packages, but this checkout's code runs
        runtime = {"py_modules": [labsupport], "env_vars": {**VARIABLES, "PYTHONSAFEPATH": "1"}}
        with (
            tempfile.TemporaryDirectory() as empty,
            standing_in(Path(empty)),
            redirect_output(Path(empty, "start.log")),
        ):
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, runtime_env=runtime)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        hint = "Is it running (ray status), with the same token (RAY_AUTH_TOKEN) and versions of Ray and Python?"
        raise ScalingError(f"The cluster cannot be used: {error}", where=address, hint=hint) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_answer(address: str) -> None:
    """Raises ScalingError where no cluster can be at HOST:PORT; Ray judges other forms ("auto") itself.

    Ray's own port speaks HTTP/2 (RFC 9113, section 3.4), unlike the one of its dashboard, which is easily taken for it.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "/" in address:
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0)))
            frame = connection.recv(9)  # length (3 bytes), type, flags, stream
        if frame[3:4] != bytes([SETTINGS]) and os.environ.get("RAY_USE_TLS") != "1":
            raise ConnectionError("another server is there")
    except (OSError, OverflowError) as error:  # a port above 65535
        hint = "Is it running (ray status)? Its own port is wanted, by default 6379."
        raise ScalingError(f"No cluster answers: {error}.", where=address, hint=hint) from error


@contextlib.contextmanager
def variables(added: Mapping[str, str]) -> Iterator[None]:
    """The environment that Ray's processes inherit, inside the block alone: this checkout comes first."""
    inherited = children.environment(**added)
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited["PYTHONPATH"]]))
    changed = {name: value for name, value in inherited.items() if os.environ.get(name) != value}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """For `ray.init`, which lets workers import from the folder where it is called: inside the block, an empty one.

    It also puts a handler of its own in SIGTERM's place. The caller's comes back, with a signal that came meanwhile.
    """
    before, handler = os.getcwd(), signal.getsignal(signal.SIGTERM)
    os.chdir(folder)
    came = False
    try:
        yield
    except SystemExit:  # by Ray's handler
        came = True
    finally:
        os.chdir(before)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    if came:
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt


def quieten() -> None:
    """Ray's messages speak of its own parts; what becomes of a file stands in its row."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # files whose worker died again and again are told by their missing rows
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class ThisThread:
    """A stream that takes what this thread writes, and drops what others do: Ray prints a page for a worker that died.

    For `contextlib.redirect_stdout`.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return self.stream.write(text) if threading.get_ident() == self.thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def choose_temp() -> str:
    """A folder for temporary files whose name is short enough."""
    found = tempfile.gettempdir()
    return found if len(found) <= LONGEST_TEMP or os.name == "nt" else "/tmp"


def remove_abandoned() -> None:
    """Removes what sessions left whose process was killed."""
    for folder in Path(choose_temp()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def find_processes() -> set[psutil.Process]:
    """All that this process has started, at any depth."""
    return set(psutil.Process().children(recursive=True))


def end_processes(started: set[psutil.Process], patience: float = SECONDS) -> None:
    """Waits for the end of the session's processes, and ends those that stay."""
    _, alive = psutil.wait_procs(started, timeout=patience)
    for process in alive:
        children.end(os.kill, process.pid)
