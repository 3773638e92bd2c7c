"""What every request passes on its way in and out: who may come in, what is logged and counted, how errors look."""

from __future__ import annotations

import time
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from labsupport.base.errors import LabError
from labsupport.serving import logs
from labsupport.serving.auth import is_foreign
from labsupport.serving.problems import ClientGone, Problem, explain
from labsupport.serving.service import Service

SEPARATORS = 4  # bytes around a header: colon, space, line end
CLIENT_GONE = 499  # as nginx logs it; nobody receives it
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
Message = MutableMapping[str, Any]


def is_protected(path: str) -> bool:
    """Whether a path needs a token. Whether the service lives, its page and its description are no secret."""
    return path.startswith("/v1/") or path == "/metrics"


@dataclass
class Passage:
    """One request on its way through the gate.

    body_ended: all of it was taken; waits: the client sends it only when asked to (Expect: 100-continue).
    """

    receive_inner: Receive
    send_inner: Send
    linger_seconds: float
    waits: bool
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    body_ended: bool = False

    async def receive(self) -> Message:
        message = await self.receive_inner()
        self.body_ended = self.body_ended or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"x-request-id", self.number.encode()), (b"x-content-type-options", b"nosniff")]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        elif not message.get("more_body", False) and not self.body_ended and not self.waits:
            await self.send_inner({**message, "more_body": True})
            await self.take_rest()
            message = {"type": "http.response.body", "body": b""}
        await self.send_inner(message)

    async def take_rest(self) -> None:
        """Takes what a client still sends of a request that is answered, for a while.

        A connection that is closed with unread bytes is reset, and the answer may be lost with it.
        """
        with anyio.move_on_after(self.linger_seconds):
            while not self.body_ended:
                await self.receive()


class Gate:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        waits = headers.get("expect", "").lower() == "100-continue"
        passage = Passage(receive, send, self.service.settings.linger_seconds, waits)
        method = scope["method"]
        if method == "HEAD":  # the server leaves the body of its answer out
            scope = {**scope, "method": "GET"}
        try:
            if problem := self.find_problem(scope, headers):
                await respond(problem)(scope, passage.receive, passage.send)
            else:
                await self.app(scope, passage.receive, passage.send)
        except ClientGone:
            passage.status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001
            logs.write_error("request failed", error, id=passage.number)
            if not passage.status:
                await respond(explain(error))(scope, passage.receive, passage.send)
        finally:
            self.note(scope, method, passage)

    def find_problem(self, scope: Scope, headers: dict[str, str]) -> Problem | None:
        """Why the request must not come in."""
        size = sum(len(name) + len(value) + SEPARATORS for name, value in scope["headers"]) + len(
            scope.get("raw_path") or b""
        )
        if size + len(scope["query_string"]) > self.service.settings.header_bytes:  # it came in one piece
            return Problem(431, "The head of the request is too large.", code="invalid_http")
        if is_foreign(headers, self.service.hosts):
            what = "The request comes from a page of another address, or to a name that this service does not have."
            return Problem(403, what, code="foreign_origin")
        if is_protected(scope["path"]) and not self.service.tokens.accepts(headers.get("authorization")):
            what = "A bearer token is needed: Authorization: Bearer TOKEN."
            return Problem(401, what, code="invalid_api_key")
        return None

    def note(self, scope: Scope, method: str, passage: Passage) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = method if method in METHODS else "other"
        seconds, metrics = time.monotonic() - passage.began, self.service.metrics
        metrics.requests.labels(f"{method} {route}", str(passage.status)).inc()
        metrics.request_seconds.labels(f"{method} {route}").observe(seconds)
        if passage.status == CLIENT_GONE:
            metrics.left.inc()
        facts = scope.get("state", {}).get("facts", {})
        logs.write("request", id=passage.number, method=method, route=route, status=passage.status,
                   seconds=round(seconds, 3), **facts)  # fmt: skip


def respond(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.body(), problem.status, problem.headers())


async def answer_lab_error(request: Request, error: LabError) -> JSONResponse:
    """Handles LabError in routes."""
    return respond(explain(error))


async def answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
    """Handles what the router itself refuses: an unknown path, a method that a path does not have."""
    problem = Problem(error.status_code, str(error.detail), code="not_found" if error.status_code == 404 else "invalid")
    answer = respond(problem)
    answer.headers.update(error.headers or {})
    return answer
