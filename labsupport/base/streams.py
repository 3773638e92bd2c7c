"""Standard output and standard error that take nothing more: their reader, or the terminal, has gone."""

from __future__ import annotations

import os
import sys
from typing import IO, Literal

from rich.console import Console


def discard(name: Literal["stdout", "stderr"]) -> None:
    """From now on the stream takes everything and gives it to nobody.

    What its buffer still holds would fail again when the process ends, with a message and exit code 120.
    """
    setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


class ErrorStream:
    """Standard error, which fails nobody: what it does not take is lost, and so is all that follows."""

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            discard("stderr")
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            discard("stderr")


class ErrorConsole(Console):
    """What is said beside the work; the work goes on where nobody reads it."""

    def __init__(self, **options):
        super().__init__(stderr=True, **options)

    @property
    def file(self) -> IO[str]:
        return ErrorStream(super().file)  # type: ignore[return-value]

    @file.setter
    def file(self, stream: IO[str]) -> None:
        Console.file.fset(self, stream)  # type: ignore[attr-defined]
