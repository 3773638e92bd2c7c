"""How much memory another process holds, with all that it has started, sampled from outside."""

from __future__ import annotations

import re
import threading
from pathlib import Path

SECONDS = 0.02  # between two samples
PROC = Path("/proc")


def held_bytes(pid: int) -> int:
    """Bytes of the process and its children: proportional set size on Linux, else resident memory.

    A page that n processes share counts as 1/n of a page in each, so that the sum over processes is what they take.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:  # it has ended
        return 0
    return sum(map(one_process, family))


def one_process(process) -> int:
    import psutil

    try:
        text = (PROC / str(process.pid) / "smaps_rollup").read_text()
        return int(re.findall(r"^Pss:\s+(\d+) kB", text, re.M)[0]) * 1024
    except (OSError, IndexError):  # no Linux, or not ours to read, or gone
        try:
            return process.memory_info().rss
        except psutil.Error:
            return 0


class MemoryWatch:
    """Samples a process during a `with` block; `peak` is the most that it held, in bytes.

    What is there for less than SECONDS may be missed.
    """

    def __init__(self, pid: int):
        self.pid, self.peak = pid, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def sample(self) -> None:
        while not self.done.wait(SECONDS):
            self.peak = max(self.peak, held_bytes(self.pid))

    def __enter__(self) -> MemoryWatch:
        self.peak = held_bytes(self.pid)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, held_bytes(self.pid))
