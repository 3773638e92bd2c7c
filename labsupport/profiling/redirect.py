"""Times work under a profiler, without the profiler's messages, which come from native code and child processes."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from labsupport.machine.backend import synchronise


@contextlib.contextmanager
def redirect_output(log: Path) -> Iterator[None]:
    """Within it, what this process and its children write to the terminal is appended to the file `log`; Python's
    loggers are silent up to warnings. Errors are raised as ever.
    """
    terminal = [os.dup(1), os.dup(2)]
    level = logging.root.manager.disable
    with open(log, "a", encoding="utf-8") as file:
        try:
            logging.disable(logging.WARNING)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            logging.disable(level)
            for number, saved in enumerate(terminal, 1):
                os.dup2(saved, number)
                os.close(saved)


def time_profiled(
    start: Callable[[], object], work: Callable[[], object], stop: Callable[[], object], log: Path
) -> float:
    """Wall seconds of the work, to its end on the device; `start` and `stop` are not counted, and write to `log`."""
    with redirect_output(log):
        start()
    started = time.perf_counter()
    try:
        work()
        synchronise()
        return time.perf_counter() - started
    finally:
        with redirect_output(log):
            stop()
