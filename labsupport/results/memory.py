"""Peak memory of a piece of work: the device allocator's, or resident memory on a CPU."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from labsupport.machine.backend import on_ascend, on_cuda, synchronise

MMAP_THRESHOLD = -3  # of glibc's mallopt (malloc.h)


def peak_memory(work: Callable[[], object]) -> tuple[object, int]:
    """Runs the work once; returns its result, and the peak memory in bytes above the start.

    On CUDA and Ascend it is the allocator's peak. On a CPU it is resident memory: the kernel's high-water mark on
    Linux where it can be reset, else sampled every millisecond, which misses what is gone sooner.
    """
    gc.collect()
    return_free_memory()
    synchronise()
    run = run_on_device if on_cuda() or on_ascend() else run_to_high_water if reset_high_water() else run_sampled
    result, peak = run(work)
    return result, max(0, peak)


def return_free_memory() -> None:
    """Has the C library hand its free memory back, else a run that fills it again would seem to need none."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim:
            trim(0)


def take_fresh_blocks() -> None:
    """From now on glibc takes each block of 1 MB and more from the system, and gives it back when it is freed.

    Without it glibc keeps freed blocks of up to 32 MB, and resident memory shows what a process once needed: with Bark
    half again as much as its tensors. Call it when a process begins, for blocks that are free already are used first.
    It costs time: measure memory in such a process, and time in another. Without glibc it changes nothing.
    """
    setting = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if setting:
        setting(MMAP_THRESHOLD, 1 << 20)


def run_to_end(work: Callable[[], object]) -> object:
    """The result, when the device has finished."""
    result = work()
    synchronise()
    return result


def run_on_device(work: Callable[[], object]) -> tuple[object, int]:
    """The result, and the device allocator's peak above the start in bytes."""
    memory = sys.modules["mindspore"].runtime if on_ascend() else sys.modules["torch"].cuda
    memory.reset_peak_memory_stats()
    start = memory.memory_allocated()
    return run_to_end(work), memory.max_memory_allocated() - start


def reset_high_water() -> bool:
    """Resets this process's high-water mark of resident memory; False where the system does not let it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: "5" resets the peak resident set size
        return True
    except OSError:  # not Linux, or a sandbox without it
        return False


def run_to_high_water(work: Callable[[], object]) -> tuple[object, int]:
    """As `run_on_device`, for resident memory, from the kernel's high-water mark, which was just reset."""
    start = read_status("VmRSS")
    return run_to_end(work), read_status("VmHWM") - start


def read_status(field: str) -> int:
    """Bytes that /proc/self/status gives for this field."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def run_sampled(work: Callable[[], object]) -> tuple[object, int]:
    """As `run_on_device`, for resident memory, read every millisecond by a thread."""
    import psutil

    process, done = psutil.Process(), threading.Event()
    start = highest = process.memory_info().rss

    def sample():
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        result = run_to_end(work)
        highest = max(highest, process.memory_info().rss)  # what is still there at the end is part of the peak
    finally:
        done.set()
        thread.join()
    return result, highest - start
