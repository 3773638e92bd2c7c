"""uvicorn's HTTP, with a limit on the time that a request's head may take, and errors in this service's form."""

from __future__ import annotations

import asyncio
import http
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from labsupport.serving.problems import Problem
from labsupport.serving.settings import Settings

WHAT = {
    400: "This is no HTTP request.",
    408: "The head of the request is too slow.",
    431: "The head of the request is too large.",
    501: "This transfer encoding is not known here.",
}


def make_protocol(settings: Settings) -> type[H11Protocol]:
    """The protocol's class, which uvicorn makes one of for each connection."""

    class TimedProtocol(H11Protocol):
        """Closes a connection that does not finish the head of a request in time; of a silent one, too."""

        timer: asyncio.TimerHandle | None = None
        refused = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.refused:
                return
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self.stop_timer()
            elif self.timer is None:  # the head of the next request on this connection begins
                self.start_timer()

        def shutdown(self) -> None:
            if self.refused:
                self.transport.close()
            else:
                super().shutdown()

        def start_timer(self) -> None:
            self.timer = self.loop.call_later(settings.header_seconds, self.end_slow_head)

        def stop_timer(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def end_slow_head(self) -> None:
            self.timer = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.refuse(408)

        def send_400_response(self, msg: str) -> None:
            """Called by uvicorn while it handles h11's error, which says what status would be right."""
            self.refuse(getattr(sys.exc_info()[1], "error_status_hint", 400))

        def refuse(self, status: int) -> None:
            """Sends an error and closes; only closes in the middle of an answer."""
            self.stop_timer()
            try:
                for event in answer_events(status):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:
                self.transport.close()
                return
            self.close_gently()

        def close_gently(self) -> None:
            """With bytes unread the connection would be reset, and the answer be lost: takes what still comes."""
            self.refused = True
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
            self.timer = self.loop.call_later(settings.linger_seconds, self.transport.close)

    return TimedProtocol


def answer_events(status: int) -> list[h11.Event]:
    """An error in this service's form, after which the connection ends."""
    body = json.dumps(Problem(status, WHAT.get(status, WHAT[400]), code="invalid_http").body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    reason = http.HTTPStatus(status).phrase.encode()
    return [
        h11.Response(status_code=status, headers=list(headers.items()), reason=reason),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
