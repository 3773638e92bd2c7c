"""Lines are JSON, and nothing that a client sends can come into them."""

from __future__ import annotations

import json
import logging

from labsupport.serving.logs import LOG, OTHERS, SILENT, JsonFormatter


def format_record(name: str, message: object, *args: object, error: Exception | None = None, **fields) -> dict:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "file.py", 1, message, args, exc_info)
    if fields:
        record.fields = fields
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_an_event_has_its_fields():
    line = format_record(LOG.name, "request", status=200, route="/a\nb")
    assert {name: line[name] for name in ("event", "status", "route", "level")} == {
        "event": "request", "status": 200, "route": "/a\nb", "level": "error",
    }  # fmt: skip
    assert line["time"].endswith("+00:00")


def test_what_a_client_sends_is_not_written():
    try:
        raise ValueError("secret text")
    except ValueError as error:
        line = format_record("uvicorn.error", "Exception in ASGI application\n%s", "secret argument", error=error)
    assert line["error"] == "ValueError"
    assert line["places"][0].startswith("test_logs.py:")
    assert line["message"] == "Exception in ASGI application"
    assert "secret" not in json.dumps(line)
    task = format_record("asyncio", "Task exception was never retrieved\nfuture: <Task secret>")
    assert "secret" not in json.dumps(task)


def test_loggers_that_repeat_what_a_client_sends_are_silent():
    assert "labsupport.speech" in SILENT  # it names tracks by their titles
    assert not set(SILENT) & set(OTHERS)
