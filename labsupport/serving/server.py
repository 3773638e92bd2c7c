"""Starts and stops the service: for a command until a signal comes, for a test or a notebook inside a `with`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from labsupport.base.errors import ServingError
from labsupport.serving import logs
from labsupport.serving.api import create_app
from labsupport.serving.auth import Tokens
from labsupport.serving.connections import make_protocol
from labsupport.serving.service import Service
from labsupport.serving.settings import DEFAULTS, LOOPBACK_NAMES, Settings, is_loopback
from labsupport.whisper.transcribe import Transcriber

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
OPEN_FILES = 65_536
BACKLOG = 2048  # connections that the system holds until they are accepted
DRAIN_SECONDS = 60.0  # for uploads, beside the time that a request may take
STARTING_SECONDS = 300.0  # that a model may take to load, its graphs to be built


class Server(uvicorn.Server):
    """uvicorn's, whose signals end it gracefully and nothing more: what was accepted is answered first.

    Another signal ends it at once.
    """

    on_started: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        logs.write("stopping", signal=signal.Signals(sig).name, at_once=self.force_exit)


def bind(host: str, port: int) -> socket.socket:
    """A socket on which nobody answers yet; port 0 lets the system choose one.

    Raises:
        ServingError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServingError(f"There is no such address: {error.strerror}.", where=host) from error
    try:
        if os.name == "posix":  # elsewhere it would let two programs have the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        hint = "Another program may have the port: choose another with --port."
        raise ServingError(f"The port cannot be had: {error.strerror}.", where=f"{host}:{port}", hint=hint) from error
    return bound


def allow_connections() -> None:
    """Lets this process have as many files and connections as it may: many systems begin with 1024.

    A server that has no more cannot accept or refuse anybody, and asyncio logs each try.
    """
    if importlib.util.find_spec("resource") is None:  # Windows
        return
    import resource

    most, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if allowed == resource.RLIM_INFINITY else min(allowed, OPEN_FILES)
    if most != resource.RLIM_INFINITY and most < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, allowed))


def make_server(service: Service) -> Server:
    settings = service.settings
    config = uvicorn.Config(
        create_app(service), http=make_protocol(settings), ws="none", lifespan="on", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, backlog=BACKLOG, h11_max_incomplete_event_size=settings.header_bytes,
        timeout_graceful_shutdown=round(settings.request_seconds + DRAIN_SECONDS),
    )  # fmt: skip
    return Server(config)


def address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allowed_hosts(host: str) -> frozenset[str] | None:
    """The names by which a service on this machine alone may be called; None, any, for one that others reach."""
    return LOOPBACK_NAMES | {host.lower().strip("[]")} if is_loopback(host) else None


def serve(
    load: Callable[[], Transcriber],
    host: str,
    port: int,
    settings: Settings = DEFAULTS,
    tokens: Tokens | None = None,
    spool_parent: Path | None = None,
) -> None:
    """Serves until a signal comes, then answers what was accepted. The log goes to standard error.

    Raises:
        ServingError: the address cannot be had.
        LabError: the model cannot be loaded.
    """
    logs.start()
    allow_connections()
    with contextlib.closing(bind(host, port)) as bound:
        url = address_of(bound)
        service = Service(load, settings, tokens, allowed_hosts(host), spool_parent)
        server = make_server(service)
        service.on_failure = lambda: setattr(server, "should_exit", True)
        server.on_started = lambda: logs.write(
            "listening", url=url, tokens=bool(service.tokens), stale_spools=service.spool.cleared
        )
        try:
            server.run([bound])
        finally:
            service.stop()
    logs.write("stopped")
    if service.failure:
        raise service.failure


@contextlib.contextmanager
def running(
    load: Callable[[], Transcriber], settings: Settings = DEFAULTS, tokens: Tokens | None = None
) -> Iterator[str]:
    """A service in a thread of this process, on a free port of this machine alone; gives its address once it is ready.

    Raises:
        ServingError: it is not ready in time.
        LabError: the model cannot be loaded.
    """
    bound = bind("127.0.0.1", 0)
    service = Service(load, settings, tokens, LOOPBACK_NAMES)
    server = make_server(service)
    thread = threading.Thread(target=server.run, args=([bound],), name="server")
    thread.start()
    try:
        wait_until_ready(service)
        yield address_of(bound)
    finally:
        server.should_exit = True
        thread.join()
        service.stop()


def wait_until_ready(service: Service) -> None:
    limit = time.monotonic() + STARTING_SECONDS
    while not service.ready:
        if service.failure:
            raise service.failure
        if time.monotonic() > limit:
            raise ServingError("The service is not ready in time.")
        time.sleep(0.05)
