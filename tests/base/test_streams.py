"""Streams that take nothing more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from labsupport.base.streams import ErrorConsole, discard

CODE = """
import sys
from labsupport.base.streams import ErrorConsole
console = ErrorConsole()
for text in ("one", "two"):
    console.print(text)
print("worked")
sys.exit(7)
"""


@pytest.mark.skipif(os.name == "nt", reason="pipes are those of POSIX")
def test_the_work_goes_on_where_nobody_reads_its_errors():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "-c", CODE], stdout=-1, stderr=write_end, check=False, text=True)
    os.close(write_end)
    assert (done.returncode, done.stdout) == (7, "worked\n")


def test_errors_are_printed_where_somebody_reads_them(capsys):
    console = ErrorConsole(soft_wrap=True)
    console.print("one")
    assert capsys.readouterr().err == "one\n"
    assert not console.is_terminal


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_discarded_stream_takes_everything(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    discard(name)
    assert print("x", file=getattr(sys, name)) is None
    getattr(sys, name).close()
