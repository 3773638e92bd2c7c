"""Records with `torch.profiler`; `on_mindspore` is its twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import record_function as label  # names what runs inside it in the trace

from labsupport.profiling.redirect import time_profiled

__all__ = ["label", "record"]


def record(work: Callable[[], object], trace: Path) -> float:
    """Runs the work under the profiler; writes the timeline to `trace` in Chrome's format; returns wall seconds."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    profiler = torch.profiler.profile(activities=activities)
    seconds = time_profiled(profiler.start, work, profiler.stop, trace.with_suffix(".log"))
    profiler.export_chrome_trace(str(trace))
    return seconds
