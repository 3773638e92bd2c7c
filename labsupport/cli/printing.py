"""What the commands print where, and how each of them ends: a line, an error, a hint, an exit code."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import typer
from rich.console import Console

from labsupport.base.errors import LabError, printable
from labsupport.base.streams import ErrorConsole
from labsupport.machine.stop_signals import StopSignals

out = Console(soft_wrap=True, emoji=False)
errors = ErrorConsole(soft_wrap=True, emoji=False)  # :smile: may be part of a name


def print_error(error: LabError) -> None:
    lines = "\n".join(printable(line) for line in str(error).splitlines())
    errors.print(f"Error: {lines}", style="red", markup=False, highlight=False)


def print_hint(text: str) -> None:
    if errors.is_terminal:
        errors.print(text, markup=False, highlight=False)


def reporter(asked: bool) -> Callable[[str], None]:
    """Takes lines beside the result, and prints them where they were asked for."""
    return lambda text: errors.print(text, markup=False, highlight=False) if asked else None


def print_line(text: str) -> None:
    out.print(text, highlight=False, markup=False)


def end(ok: bool) -> None:
    """Exit code 1 unless all is well."""
    if not ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def stoppable(stored: str = "") -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the command with a line on what is `stored`, and with 128 and the signal."""
    with StopSignals() as stop:
        try:
            with stop.interruptible():
                yield
        except KeyboardInterrupt as interrupt:
            logging.getLogger("asyncio").disabled = True  # of the tasks that waited for a kernel
            lines = ["Stopped.", *map(str, interrupt.args), stored]
            errors.print(" ".join(filter(None, lines)), markup=False, highlight=False)
            raise typer.Exit(stop.exit_code) from None
