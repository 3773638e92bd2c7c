"""Runs a tool in its own process: with a time limit, a log, and errors that quote the end of its output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from labsupport.base.errors import SophonError, printable
from labsupport.machine import children

QUOTED = 12  # lines


def run_tool(
    command: Sequence[str | Path], *, folder: Path, log: Path, seconds: float, env: Mapping[str, str] | None = None
) -> None:
    """Runs the command in `folder`, and appends all that it prints to `log`; SophonError if it fails.

    A tool that takes too long is ended together with the processes that it started, and with no others.
    """
    arguments = [str(part) for part in command]
    line, name = " ".join(arguments), Path(arguments[0]).name
    with log.open("ab") as output:
        output.write(f"$ {line}\n".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                children.guarded(arguments),
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise SophonError(f"{name} could not be started: {error}", where=arguments[0]) from error
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            what = f"{name} took longer than {seconds:g} s and was ended.{quote_end(log)}"
            raise SophonError(what, where=line, hint="Take a smaller graph, or raise the limit.") from error
        finally:
            end_group(process)
    if code:
        raise SophonError(f"{name} failed with exit code {code}.{quote_end(log)}", where=line)


def end_group(process: subprocess.Popen) -> None:
    """Ends a process that still runs, and its own children: it leads a group that holds nobody else."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def quote_end(log: Path) -> str:
    """The last lines of a log, indented, without the command lines that `run_tool` wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    printed = [printable(line.rstrip()) for line in lines if line.strip() and not line.startswith("$ ")]
    return "".join(f"\n  | {line[:300]}" for line in printed[-QUOTED:])
