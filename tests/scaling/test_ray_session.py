"""Ray's session: which address it takes for a cluster, what becomes of a failed start, what comes back after it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading

import psutil
import pytest

from labsupport.base.errors import NotAvailable, ScalingError
from labsupport.base.paths import ROOT
from labsupport.scaling import ray_session as sessions
from labsupport.scaling.ray_session import ray_session, remove_abandoned, standing_in, variables


def test_without_ray_the_error_says_so(monkeypatch):
    monkeypatch.setattr(sessions, "is_installed", lambda name: False)
    with pytest.raises(NotAvailable, match="Ray is not installed"), ray_session(1):
        pass


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_an_error_and_no_wait(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(*arguments, **options):
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ScalingError, match="nobody is there"), ray_session(1, "auto"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "no-such-host.invalid"])
def test_an_address_where_nobody_listens_is_an_error_before_ray_tries_for_minutes(monkeypatch, host):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would wait"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        with (
            pytest.raises(ScalingError, match="No cluster answers"),
            ray_session(1, f"{host}:{closed.getsockname()[1]}"),
        ):
            pass


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["a dashboard", "nothing"])
def test_another_server_is_no_cluster(monkeypatch, answer):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)

    class Other(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(ScalingError, match="another server is there") as error:
            sessions.check_answer(f"127.0.0.1:{server.server_address[1]}")
    assert "6379" in error.value.hint


def test_a_port_that_cannot_be_is_an_error():
    with pytest.raises(ScalingError, match="No cluster answers"):
        sessions.check_answer("127.0.0.1:99999")


def fail_to_start(monkeypatch, times):
    """`ray.init` that starts a process and fails, so many times; the processes."""
    ray, started = pytest.importorskip("ray"), []

    def init(address, **options):
        assert address == "local"  # whatever RAY_ADDRESS says
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        if len(started) <= times:
            raise Exception("The current node timed out during startup.")  # as Ray raises it

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return started


@pytest.mark.slow
def test_a_start_that_failed_is_tried_again_and_leaves_nothing(monkeypatch):
    started = fail_to_start(monkeypatch, times=1)
    with ray_session(1):
        assert [process.poll() is None for process in started] == [False, True]
    assert [process.wait(30) is None for process in started] == [False, False]


@pytest.mark.slow
def test_a_start_that_fails_each_time_is_an_error_of_the_lab(monkeypatch):
    started = fail_to_start(monkeypatch, times=9)
    with pytest.raises(ScalingError, match="timed out during startup"), ray_session(1):
        pass
    assert len(started) == sessions.TRIES
    assert all(process.wait(30) is not None for process in started)


# --- what comes back --------------------------------------------------------------------------------------------------


def test_the_environment_comes_back(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}relative")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = dict(os.environ)
    with variables(sessions.VARIABLES):
        assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path)]
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert dict(os.environ) == before


def test_folder_and_signal_handler_come_back(tmp_path):
    before, handler = os.getcwd(), signal.getsignal(signal.SIGTERM)
    try:
        with standing_in(tmp_path):
            assert os.getcwd() == str(tmp_path)
            signal.signal(signal.SIGTERM, lambda *_: None)  # as ray.init does
        assert (os.getcwd(), signal.getsignal(signal.SIGTERM)) == (before, handler)
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.skipif(os.name == "nt", reason="Windows raises no SIGTERM in a process")
def test_a_sigterm_that_ray_turned_into_an_exit_reaches_the_handler_that_was_there(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), standing_in(tmp_path):
            raise SystemExit(signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_another_thread_prints_is_dropped(capsys):
    with contextlib.redirect_stdout(sessions.ThisThread(sys.stdout)):
        print("ours")
        thread = threading.Thread(target=print, args=("Ray's",))
        thread.start()
        thread.join()
        print("ours again", flush=True)
    assert capsys.readouterr().out == "ours\nours again\n"


def test_in_a_thread_no_handler_is_touched(tmp_path):
    errors = []

    def work():
        try:
            with standing_in(tmp_path):
                pass
        except ValueError as error:  # "signal only works in main thread"
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_folders_of_sessions_whose_process_is_gone_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "choose_temp", lambda: str(tmp_path))
    gone = next(number for number in range(10**6, 10**7) if not psutil.pid_exists(number))
    names = [f"lab-ray-{gone}-x", f"lab-ray-{os.getpid()}-y", "lab-ray-odd", "other"]
    for name in names:
        (tmp_path / name).mkdir()
    remove_abandoned()
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_a_long_temporary_folder_gives_way_to_a_short_one(monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/" + "x" * 60)
    assert len(sessions.choose_temp()) <= sessions.LONGEST_TEMP
