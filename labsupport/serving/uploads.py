"""A form with a file, read as it arrives: the file goes to the spool piece by piece, and no limit is found too late."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from labsupport.serving.problems import ClientGone, Problem
from labsupport.serving.settings import Settings
from labsupport.serving.spool import Upload

MOST_FIELDS = 64
FLUSH = 2**18  # bytes of the file that are written at once
Receive = Callable[[], Awaitable[Mapping]]  # ASGI's


@dataclass
class Field:
    """A part of the form: its name, and its text as it has come so far. is_file: it was sent as a file."""

    name: str
    is_file: bool
    content: bytearray = field(default_factory=bytearray)


def find_boundary(content_type: str | None) -> bytes:
    """Raises Problem unless this is the type of a form with files."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        what = "The request must be a form: Content-Type: multipart/form-data, with a boundary."
        raise Problem(415, what, code="unsupported_media_type")
    return options[b"boundary"]


def check_length(length: str | None, settings: Settings) -> None:
    """Raises Problem where the head says that the body is too large: before any of it is taken."""
    if length is not None and length.isdigit() and int(length) > settings.upload_bytes:
        raise too_large(settings)


def too_large(settings: Settings) -> Problem:
    what = f"The request is larger than {settings.upload_bytes} bytes."
    return Problem(413, what, code="upload_too_large", param="file")


class FormReader:
    """Takes a body's pieces; afterwards `fields` are {name: [texts]}, and the file is in `upload`."""

    def __init__(self, boundary: bytes, upload: Upload, settings: Settings):
        self.upload, self.settings = upload, settings
        self.fields: dict[str, list[str]] = {}
        self.has_file = self.ended = False
        self.part: Field | None = None
        self.header, self.value, self.headers = bytearray(), bytearray(), dict[bytes, bytes]()
        self.count = 0
        try:
            self.parser = MultipartParser(boundary, {name: getattr(self, name) for name in CALLBACKS})  # type: ignore[arg-type]
        except FormParserError as error:
            raise malformed() from error

    async def feed(self, data: bytes) -> None:
        try:
            self.parser.write(data)
        except FormParserError as error:
            raise malformed() from error
        if self.part and self.part.is_file and len(self.part.content) >= FLUSH:
            await self.flush(self.part)

    async def finish(self) -> None:
        if not self.ended:
            raise malformed()
        await anyio.to_thread.run_sync(self.upload.finish)

    async def flush(self, part: Field) -> None:
        data, part.content = bytes(part.content), bytearray()
        await anyio.to_thread.run_sync(self.upload.write, data)

    # --- what the parser calls ---

    def on_part_begin(self) -> None:
        self.headers, self.part = {}, None
        self.count += 1
        if self.count > MOST_FIELDS:
            raise Problem(422, f"The form has more than {MOST_FIELDS} fields.", code="too_many_fields")

    def on_header_begin(self) -> None:
        self.header, self.value = bytearray(), bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def on_header_end(self) -> None:
        self.headers[bytes(self.header).lower()] = bytes(self.value)

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self.headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise malformed()
        self.part = Field(decode(options[b"name"]), is_file=b"filename" in options)
        if not self.part.is_file:
            return
        if self.part.name != "file":
            what = "Only the field `file` can be a file."
            raise Problem(422, what, code="unknown_parameter", param=self.part.name[:100])
        if self.has_file:
            raise Problem(422, "The field `file` was sent more than once.", code="repeated_parameter", param="file")
        self.has_file = True

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self.part is not None
        self.part.content += data[start:end]
        if not self.part.is_file and len(self.part.content) > self.settings.field_bytes:
            what = f"A field is longer than {self.settings.field_bytes} bytes."
            raise Problem(413, what, code="field_too_large", param=self.part.name[:100])

    def on_part_end(self) -> None:
        assert self.part is not None
        if self.part.is_file:
            self.upload.write(bytes(self.part.content))
        else:
            self.fields.setdefault(self.part.name, []).append(decode(bytes(self.part.content)))
        self.part = None

    def on_end(self) -> None:
        self.ended = True


CALLBACKS = (
    "on_part_begin", "on_header_begin", "on_header_field", "on_header_value", "on_header_end", "on_headers_finished",
    "on_part_data", "on_part_end", "on_end",
)  # fmt: skip


def decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(422, "A field is no UTF-8.", code="invalid_encoding") from error


def malformed() -> Problem:
    return Problem(400, "The form is damaged, or breaks off.", code="malformed_form")


async def receive_form(receive: Receive, boundary: bytes, upload: Upload, settings: Settings) -> FormReader:
    """Reads a request's body to its end.

    Raises:
        Problem: it is too large, too slow or no form; the spool is full.
        ClientGone: the client left.
    """
    reader, size, began = FormReader(boundary, upload, settings), 0, time.monotonic()
    more = True
    while more:
        allowed = settings.grace_seconds + size / settings.upload_rate - (time.monotonic() - began)
        data, more = await receive_piece(receive, min(settings.idle_seconds, allowed))
        size += len(data)
        if size > settings.upload_bytes:
            raise too_large(settings)
        await reader.feed(data)
    await reader.finish()
    return reader


async def receive_piece(receive: Receive, seconds: float) -> tuple[bytes, bool]:
    """The next piece of the body, and whether more follow."""
    try:
        with anyio.fail_after(max(0.0, seconds)):
            message = await receive()
    except TimeoutError as error:
        raise Problem(408, "The upload is too slow.", code="slow_upload") from error
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)
