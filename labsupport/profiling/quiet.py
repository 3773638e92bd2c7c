"""Profilers talk: to the terminal, past Python, from processes of their own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Within it, what this process and its children write to the terminal is appended to the file `log`; Python's
    loggers are silent up to warnings. Errors are raised as ever.
    """
    saved = [os.dup(1), os.dup(2)]
    level = logging.root.manager.disable
    with open(log, "a", encoding="utf-8") as file:
        try:
            logging.disable(logging.WARNING)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            logging.disable(level)
            for number in saved:
                os.close(number)
