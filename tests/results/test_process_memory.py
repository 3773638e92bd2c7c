"""Another process's memory, beside what the kernel and that process itself say."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from labsupport.results import process_memory
from labsupport.results.process_memory import MemoryWatch, held_bytes

HOLD = "import sys; block = b'x' * {size}; print('ready', flush=True); sys.stdin.readline(); del block"
CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {code!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline(); print("ready", flush=True); sys.stdin.readline(); child.communicate(b"\\n")
"""


def start(code: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.mark.parametrize("inside", ["itself", "its child"])
def test_what_a_process_and_its_children_hold_is_counted(inside):
    small, large = HOLD.format(size=0), HOLD.format(size=100_000_000)
    few, many = (start(code if inside == "itself" else CHILD.format(code=code)) for code in (small, large))
    try:
        assert held_bytes(many.pid) - held_bytes(few.pid) == pytest.approx(100e6, rel=0.05)
    finally:
        for process in (few, many):
            process.communicate(b"\n")
    assert held_bytes(many.pid) == 0  # it has ended


def test_a_watch_gives_the_peak_not_the_end():
    code = "import sys; print(1, flush=True); sys.stdin.readline(); b = b'x' * 100_000_000; import time; " \
           "time.sleep(0.5); del b; print(2, flush=True); sys.stdin.readline()"  # fmt: skip
    process = start(code)
    with MemoryWatch(process.pid) as watch:
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
    after = held_bytes(process.pid)
    process.communicate(b"\n")
    assert watch.peak > after + 90e6
    assert not watch.thread.is_alive()


def test_without_proportional_sizes_resident_memory_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "PROC", tmp_path)
    process = start(HOLD.format(size=50_000_000))
    found = held_bytes(process.pid)
    process.communicate(b"\n")
    assert 50e6 < found < 100e6


def test_a_shared_page_counts_once_over_all_processes(monkeypatch):
    if not (process_memory.PROC / "self" / "smaps_rollup").exists():
        pytest.skip("this system has no proportional set size")
    code = (
        "import mmap, os, sys\nblock = mmap.mmap(-1, 50_000_000)\nblock.write(b'x' * 50_000_000)\npid = os.fork()\n"
        "n = sum(block[i] for i in range(0, 50_000_000, 4096))\n"
        "if pid: print(1, flush=True); sys.stdin.readline(); os.kill(pid, 9)\nelse:\n import time; time.sleep(60)"
    )
    process = start(code)
    time.sleep(1)  # the child has touched all pages by then
    found = held_bytes(process.pid)
    process.communicate(b"\n")
    assert 50e6 < found < 80e6
