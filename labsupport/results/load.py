"""What else a machine does while something is measured on it: the share of its processors that others use."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

SECONDS = 0.2  # that the look before a measurement takes; the system counts CPU time in hundredths


@dataclass(frozen=True)
class Load:
    """The share of this process's processors that other processes used, 0 to 1; None where the system does not say.

    Args:
        before: in the moment before a measurement, while this process waits.
        during: over all of its runs; what a virtual machine's host took away counts as others' use.
    """

    before: float | None
    during: float | None


@dataclass(frozen=True)
class Snapshot:
    """Seconds since some start: of the clock, of the CPU time that all processes took, and that our own did."""

    wall: float
    busy: float
    own: float
    processors: int


def take_snapshot() -> Snapshot:
    """The counters of the processors that this process may run on; its children's time counts as its own."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(times))
    chosen = [times[number] for number in mine if number < len(times)]
    busy = sum(sum(each[:8]) - each.idle - getattr(each, "iowait", 0.0) for each in chosen)  # 8: guests are users, too
    return Snapshot(time.perf_counter(), busy, own_seconds(psutil.Process()), len(chosen))


def cpu_seconds() -> float:
    """CPU seconds of this process, exactly, and of all that it has started, in hundredths."""
    import psutil

    ended, running = os.times()[2:4], psutil.Process().children(recursive=True)
    return time.process_time() + sum(ended) + sum(own_seconds(child) for child in running)


def own_seconds(process) -> float:
    """CPU seconds of a psutil process and its children, ended ones included."""
    import psutil

    seconds = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            seconds += sum(each.cpu_times()[:4])  # user, system, and both of ended children
        except psutil.Error:  # it has ended since
            continue
    return seconds


def share_of_others(start: Snapshot, end: Snapshot) -> float | None:
    """The share of the processors that others used between two snapshots; None where the counters stand still."""
    busy, own = end.busy - start.busy, end.own - start.own
    if end.wall <= start.wall or (busy <= 0 and own > 0.1):
        return None
    return min(1.0, max(0.0, busy - own) / (end.processors * (end.wall - start.wall)))


def look_before() -> float | None:
    """The share that others use now, while this process waits for SECONDS."""
    start = take_snapshot()
    time.sleep(SECONDS)
    return share_of_others(start, take_snapshot())
