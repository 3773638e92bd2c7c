"""`lab transcribe` as a process of its own, with a model that says the same of all."""

from __future__ import annotations

import os
import subprocess
import sys

from labsupport.base.paths import ROOT

COMMAND = """
import os, signal, sys
from dataclasses import replace
from fake_transcriber import TWO, FakeTranscriber
from labsupport import cli
from labsupport.engine import choosing

class Speaker(FakeTranscriber):
    def transcribe(self, samples, **options):
        if len(self.seconds) == {interrupt_after}:
            os.kill(os.getpid(), {number})
        return super().transcribe(samples, **options)

model = Speaker(replace(TWO, text="\\u00e9 \\u65e5\\u672c"))
choosing.load_for_command = lambda name, backend, engine, report: model
sys.argv = ["lab", "transcribe", *sys.argv[1:]]
cli.main()
"""


def start_command(*arguments, interrupt_after=-1, number=2, before="", environment=None, **how) -> subprocess.Popen:
    """The command as its own process, with a model that says the same of all; what it prints are bytes.

    The signal `number` comes after so many files; `before`: lines of code that run first.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    code = before + COMMAND.format(interrupt_after=interrupt_after, number=int(number))
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **how}
    environment = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **how)


def run_command(*arguments, **how) -> subprocess.CompletedProcess:
    """`start_command`, to its end."""
    with start_command(*arguments, **how) as started:
        printed, told = started.communicate(timeout=300)
    return subprocess.CompletedProcess(started.args, started.returncode, printed, told)
