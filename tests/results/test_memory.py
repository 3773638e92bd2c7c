"""Peak memory of work that allocates a known amount."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from labsupport.machine import backend
from labsupport.results import memory
from labsupport.results.memory import peak_memory

MEGABYTE = 1_000_000


def allocate_and_hold():
    block = np.ones(100 * MEGABYTE, np.uint8)
    time.sleep(0.05)  # long enough for a sampling thread on a busy machine
    return block[:3].tolist()


@pytest.mark.parametrize("sampled", [False, True])
def test_peak_memory_is_what_was_allocated(monkeypatch, sampled):
    if sampled:
        monkeypatch.setattr(memory, "reset_high_water", lambda: False)
    result, peak = peak_memory(allocate_and_hold)
    assert result == [1, 1, 1]
    assert peak == pytest.approx(100 * MEGABYTE, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator keeps freed blocks; others are not so tested")
def test_memory_that_an_earlier_run_freed_counts_again():
    pins = []  # a block that stays at the heap's end keeps the C library from giving back what is free below

    def many_small_blocks():
        blocks = [bytearray(50_000) for _ in range(2000)]
        pins.append(bytearray(50_000))
        return len(blocks)

    peaks = [peak_memory(many_small_blocks)[1] for _ in range(3)]
    assert peaks == pytest.approx([100 * MEGABYTE] * 3, rel=0.15)


FREE_BELOW_A_PIN = """
from labsupport.results import memory
{first}
for _ in range(2):  # the first free lets glibc's own rule grow
    block = b"x" * 20_000_000
    pin = b"y" * 100_000
    before = memory.read_status("VmRSS")
    del block
    freed = before - memory.read_status("VmRSS")
print(freed)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt, and keeps so much")
@pytest.mark.parametrize(("first", "freed"), [("", 0), ("memory.take_fresh_blocks()", 20)])
def test_a_freed_block_goes_back_where_fresh_ones_are_taken(first, freed):
    """A small block above it keeps a large one of the heap where it is."""
    done = subprocess.run(
        [sys.executable, "-c", FREE_BELOW_A_PIN.format(first=first)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) / MEGABYTE == pytest.approx(freed, abs=1)


def test_peak_on_a_device_is_the_allocators(monkeypatch):
    allocator = SimpleNamespace(now=500, peak=9000)  # a stand-in for torch.cuda: this test needs no GPU
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda: setattr(allocator, "peak", allocator.now),
        memory_allocated=lambda: allocator.now,
        max_memory_allocated=lambda: allocator.peak,
        synchronize=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(memory, "on_cuda", lambda: True)
    monkeypatch.setattr(backend, "on_cuda", lambda: True)
    assert peak_memory(lambda: setattr(allocator, "peak", 1700))[1] == 1200


# --- rows
