"""One request for text: its upload, its turn, its answer; and an end to all of it when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from labsupport.serving import answers
from labsupport.serving.jobs import Finished, Job, Piece
from labsupport.serving.problems import ClientGone, explain, too_late
from labsupport.serving.schemas import AudioForm, TranscriptionForm, parse_form
from labsupport.serving.service import Service
from labsupport.serving.uploads import check_length, find_boundary, receive_form

HEARTBEAT_SECONDS = 15.0  # proxies cut connections that are silent for a minute
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class AudioResponse(Response):
    """Answers a request for the text of a sound. Being ASGI's own kind of callable, it sees when the client leaves.

    Args:
        kind: the form that the request must be.
        task: "transcribe" or "translate".
    """

    def __init__(self, service: Service, request: Request, kind: type[AudioForm], task: str):
        super().__init__()
        self.service, self.request, self.kind, self.task = service, request, kind, task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem or AudioError before the answer has begun; ClientGone."""
        service, settings, headers = self.service, self.service.settings, self.request.headers
        boundary = find_boundary(headers.get("content-type"))
        check_length(headers.get("content-length"), settings)
        service.transcriber  # noqa: B018 (is it loaded?)
        with service.admission.enter(), service.spool.open() as upload:
            reader = await receive_form(receive, boundary, upload, settings)
            service.metrics.upload_bytes.inc(upload.bytes)
            form = parse_form(self.kind, reader.fields, reader.has_file)
            job = Job(service.make_ask(form, self.task), upload.path, settings.request_seconds)
            sender = Sender(scope, receive, send)
            try:
                async with attended(job, receive), service.slots:
                    began = time.monotonic()
                    await self.answer(job, form, sender)
                    service.admission.note(time.monotonic() - began)
            except Exception as error:  # noqa: BLE001
                await sender.break_off(error)
            if not sender.ended and job.reason:
                await sender.break_off(job.reason)

    async def answer(self, job: Job, form: AudioForm, sender: Sender) -> None:
        self.service.submit(job, await self.service.read(job))
        collected = answers.Collected()
        if isinstance(form, TranscriptionForm) and form.stream:
            finished = await self.stream(job, form, collected, sender)
        else:
            finished = await collect(job, collected)
            await sender.send_whole(self.whole(form, collected, finished))
        self.service.metrics.audio_seconds.inc(finished.duration)
        self.service.metrics.windows.inc(finished.windows)
        facts = {"audio_seconds": round(finished.duration, 2), "windows": finished.windows}
        self.request.scope.setdefault("state", {}).setdefault("facts", {}).update(facts)

    def whole(self, form: AudioForm, collected: answers.Collected, finished: Finished) -> Response:
        if form.response_format == "json":
            return JSONResponse(answers.plain(collected, finished).model_dump())
        if form.response_format == "verbose_json":
            granularities = form.timestamp_granularities if isinstance(form, TranscriptionForm) else []
            encode = self.service.transcriber.tokenizer.encode
            found = answers.verbose(collected, finished, self.task, granularities, encode)
            return JSONResponse(found.model_dump(exclude_none=True))
        return PlainTextResponse(answers.as_text(collected, form.response_format))

    async def stream(self, job: Job, form: AudioForm, collected: answers.Collected, sender: Sender) -> Finished:
        """What is wrong with the sound is known before the first event, and still gets a status of its own."""
        number, found = 0, await next_event(job)
        await sender.start_stream()
        while not isinstance(found, Finished):
            if isinstance(found, Piece):
                await sender.send_part(answers.delta_event(collected.add(found)))
                for segment in found.segments:
                    await sender.send_part(answers.segment_event(number, segment))
                    number += 1
            else:
                await sender.send_part(b": still at work\n\n")
            found = await next_event(job, HEARTBEAT_SECONDS)
        await sender.send_part(answers.done_event(collected, found), last=True)
        return found


class Sender:
    """The way to the client, and how far the answer has come."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self.scope, self.receive, self.send = scope, receive, send
        self.started = self.ended = False

    async def send_whole(self, response: Response) -> None:
        self.started = True
        await response(self.scope, self.receive, self.send)
        self.ended = True

    async def start_stream(self) -> None:
        headers = [(name.encode(), value.encode()) for name, value in EVENTS.items()]
        self.started = True
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_part(self, content: bytes, last: bool = False) -> None:
        await anyio.lowlevel.checkpoint()  # sending waits for nothing: a client that has left would go unseen
        await self.send({"type": "http.response.body", "body": content, "more_body": not last})
        self.ended = last

    async def break_off(self, error: Exception) -> None:
        """Ends a stream by an event with the error; raises it where none has begun, or nobody waits."""
        if not self.started or isinstance(error, ClientGone):
            raise error
        if not self.ended:
            await self.send_part(answers.event(explain(error).body()), last=True)


@asynccontextmanager
async def attended(job: Job, receive: Receive) -> AsyncIterator[None]:
    """The block ends when the client leaves, or the job's time is over; the job's `reason` then says which.

    Afterwards no thread works for the job any more.
    """
    with anyio.CancelScope(deadline=anyio.current_time() + job.left) as scope:
        watcher = asyncio.ensure_future(watch(job, receive, scope))
        try:
            yield
        finally:
            watcher.cancel()
            job.end(too_late(job.limit) if job.left <= 0 else ClientGone())


async def watch(job: Job, receive: Receive, scope: anyio.CancelScope) -> None:
    """Waits until the client leaves; to be called when its request is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.end(ClientGone())
    scope.cancel()


async def collect(job: Job, collected: answers.Collected) -> Finished:
    while not isinstance(found := await next_event(job), Finished):
        if isinstance(found, Piece):
            collected.add(found)
    return found


async def next_event(job: Job, seconds: float | None = None) -> Piece | Finished | None:
    """What the model's thread has found next; None where it has found nothing in so many seconds. Raises its errors."""
    with anyio.move_on_after(seconds):
        event = await job.events.get()
        if isinstance(event, Exception):
            raise event
        return event
    return None
