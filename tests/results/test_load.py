"""Planted counters of the system, and a real process that works beside this one."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from labsupport.results import load
from labsupport.results.load import Snapshot, share_of_others

START = Snapshot(wall=10.0, busy=100.0, own=50.0, processors=2)


@pytest.mark.parametrize(
    ("end", "share"),
    [
        (Snapshot(20.0, 100.0, 50.0, 2), 0.0),  # nobody worked
        (Snapshot(20.0, 110.0, 60.0, 2), 0.0),  # this process alone
        (Snapshot(20.0, 115.0, 60.0, 2), 0.25),  # 5 s of others', of 2 processors for 10 s
        (Snapshot(20.0, 120.0, 50.0, 2), 1.0),
        (Snapshot(20.0, 109.9, 60.0, 2), 0.0),  # two clocks that disagree a little
        (Snapshot(20.0, 100.0, 60.0, 2), None),  # the system's counters stand still
        (Snapshot(10.0, 100.0, 50.0, 2), None),  # no time passed
    ],
)
def test_the_share_of_others_is_what_is_left_of_the_busy_time(end, share):
    assert share_of_others(START, end) == (None if share is None else pytest.approx(share))


def test_a_process_beside_this_one_is_seen_and_its_own_work_is_not():
    """Against psutil's count of both processes, whatever else the machine does meanwhile."""
    # Not a child: children's time is this process's own. A second interpreter starts it and ends.
    code = "import time; end = time.time() + 120\nwhile time.time() < end: pass"
    start = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    start += "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True).pid)"
    done = subprocess.run([sys.executable, "-c", start, code], capture_output=True, text=True, check=True, timeout=30)
    beside, own = psutil.Process(int(done.stdout)), psutil.Process()
    time.sleep(0.2)
    try:
        before, snapshot = (beside.cpu_times().user, own.cpu_times().user), load.take_snapshot()
        began = time.perf_counter()
        while time.perf_counter() < began + 1.5:
            pass
        after, seconds = (beside.cpu_times().user, own.cpu_times().user), time.perf_counter() - began
    finally:
        beside.kill()
    share = share_of_others(snapshot, load.take_snapshot())
    if share is None:
        pytest.skip("this system counts no CPU time of all processes")
    others = share * seconds * snapshot.processors
    assert others > 0.7 * (after[0] - before[0])
    assert others < seconds * snapshot.processors - 0.7 * (after[1] - before[1])


def test_children_count_as_this_process_and_one_that_ended_meanwhile_as_nothing():
    import psutil

    class Ended:
        def cpu_times(self):
            raise psutil.NoSuchProcess(1)

    class Process:
        def __init__(self, children):
            self.found = children

        def children(self, recursive):
            assert recursive
            return self.found

        def cpu_times(self):
            return (1.0, 0.5, 0.25, 0.25, 99.0)

    assert load.own_seconds(Process([Process([]), Ended()])) == 4.0


def test_the_look_before_takes_its_time_and_gives_a_share():
    start = time.perf_counter()
    share = load.look_before()
    assert time.perf_counter() - start >= load.SECONDS
    assert share is None or 0.0 <= share <= 1.0
