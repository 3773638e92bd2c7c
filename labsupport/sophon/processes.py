"""Runs a tool as a process of its own: with a time limit, a log, and errors that quote what it said last."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from labsupport.base.errors import SophonError

QUOTED = 12  # lines


def run_tool(
    command: Sequence[str | Path], *, folder: Path, log: Path, seconds: float, env: Mapping[str, str] | None = None
) -> None:
    """Runs the command in `folder`; appends all that it says to `log`.

    A tool that takes too long is ended together with the processes that it started, and with no others.

    Raises:
        SophonError: it cannot be started, or its exit code is not 0.
        SophonError: it took longer than `seconds`.
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(words)}\n".encode())
        stream.flush()
        options = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        try:
            process = subprocess.Popen(words, cwd=folder, env=env, start_new_session=True, **options)
        except OSError as error:
            raise SophonError(f"{name} could not be started: {error}", where=words[0]) from error
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise SophonError(
                f"{name} took longer than {seconds:g} s and was ended.{quote_end(log)}",
                where=" ".join(words),
                hint="give it more time, or a smaller graph",
            ) from error
        finally:
            end_group(process)
    if code:
        raise SophonError(f"{name} failed with exit code {code}.{quote_end(log)}", where=" ".join(words))


def end_group(process: subprocess.Popen) -> None:
    """Ends a process that still runs, and its own children: it leads a group that holds nobody else."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def quote_end(log: Path) -> str:
    """The last lines of a log, indented; the command line that we wrote ourselves is not among them."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    said = [line.rstrip() for line in lines if line.strip() and not line.startswith("$ ")]
    return "".join(f"\n  | {line[:300]}" for line in said[-QUOTED:])
