"""The service's log: a JSON object a line, without sound, text, file names, addresses or tokens."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any

LOG = logging.getLogger("labsupport.serving")
OTHERS = ("uvicorn.error", "asyncio")  # whose lines come into the same log
SILENT = ("python_multipart", "uvicorn.access", "labsupport.speech")  # they repeat what a client sends


class JsonFormatter(logging.Formatter):
    """Our events with their fields; of other loggers' messages the first line, without what would be put into it.

    That, and what an exception says, may be a client's. Of an exception its type and its places are written.
    """

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        content: dict[str, Any] = {"time": when, "level": record.levelname.lower()}
        if record.name == LOG.name:
            content |= {"event": record.msg, **getattr(record, "fields", {})}
        else:
            content |= {"event": "library", "logger": record.name, "message": str(record.msg).partition("\n")[0][:100]}
        if record.exc_info and record.exc_info[1]:
            content |= describe_error(record.exc_info[1])
        return json.dumps(content, ensure_ascii=False)


def describe_error(error: BaseException) -> dict:
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-8:]]
    return {"error": type(error).__name__, "places": places}


def write(event: str, **fields: Any) -> None:
    LOG.info(event, extra={"fields": fields})


def write_error(event: str, error: BaseException, **fields: Any) -> None:
    LOG.error(event, exc_info=error, extra={"fields": fields})


def start() -> None:
    """Sends the log to standard error, and nothing else there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (LOG.name, *OTHERS):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == LOG.name else logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = False
