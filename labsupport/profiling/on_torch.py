"""Records with `torch.profiler`; `on_mindspore` is its twin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function

from labsupport.profiling.quiet import time_between


def mark(name: str) -> AbstractContextManager:
    """Names what runs inside it in the trace."""
    return record_function(name)


def record(work: Callable[[], object], trace: Path) -> float:
    """Runs the work under the profiler; writes the timeline to `trace` in Chrome's format; returns wall seconds."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    recorder = torch.profiler.profile(activities=activities)
    seconds = time_between(recorder.start, work, recorder.stop, trace.with_suffix(".log"))
    recorder.export_chrome_trace(str(trace))
    return seconds
