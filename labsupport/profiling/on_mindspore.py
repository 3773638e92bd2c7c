"""Records with `mindspore.profiler`, with article A's schedule, level and handler; `on_torch` is its twin."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore
from mindspore.profiler import (
    AicoreMetrics,
    ExportType,
    ProfilerActivity,
    ProfilerLevel,
    _ExperimentalConfig,
    schedule,
    tensorboard_trace_handler,
)

from labsupport.base.errors import TraceError
from labsupport.profiling.ascend import OUTPUT
from labsupport.profiling.redirect import redirect_output, time_profiled
from labsupport.profiling.trace import load_events

PHASES_PID = 10**6  # no process of the trace has this number

phases: list[tuple[str, int, int]] = []  # name, begin and end; nanoseconds since 1970, as MindSpore counts


@contextlib.contextmanager
def label(name: str) -> Iterator[None]:
    """Notes when what runs inside it began and ended. MindSpore's own marks (mstx) exist on Ascend alone."""
    begin = time.time_ns()
    try:
        yield
    finally:
        phases.append((name, begin, time.time_ns()))


def make_profiler(folder: Path) -> mindspore.profiler.profile:
    """Article A's profiler, its missing imports added; it writes `*_ascend_ms` into `folder`."""
    return mindspore.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.NPU],
        schedule=schedule(wait=0, warmup=0, active=1, repeat=1, skip_first=0),
        on_trace_ready=tensorboard_trace_handler(str(folder)),
        profile_memory=False,
        experimental_config=_ExperimentalConfig(
            profiler_level=ProfilerLevel.Level0,
            aic_metrics=AicoreMetrics.AiCoreNone,
            l2_cache=False,
            mstx=False,
            data_simplification=False,
            export_type=[ExportType.Text],
        ),
    )


def record(work: Callable[[], object], trace: Path) -> float:
    """Runs the work under the profiler; writes the timeline, with the phases, to `trace`; returns wall seconds.

    What MindSpore itself wrote stays beside it, in the folder `mindspore`.
    """
    folder, log = trace.parent / "mindspore", trace.with_suffix(".log")
    shutil.rmtree(folder, ignore_errors=True)
    phases.clear()
    with redirect_output(log):
        profiler = make_profiler(folder)

    def stop() -> None:
        profiler.step()
        profiler.stop()

    seconds = time_profiled(profiler.start, work, stop, log)
    outputs = list(folder.glob(f"*/{OUTPUT}/trace_view.json"))
    if not outputs:
        raise TraceError("MindSpore's profiler wrote no timeline.", where=folder, hint=f"Its messages are in {log}.")
    trace.write_text(json.dumps(add_phases(load_events(outputs[0]))), encoding="utf-8")
    return seconds


def add_phases(events: list[dict]) -> list[dict]:
    """The events, and the phases as a process of their own. Times stay decimal strings: a float cannot hold them."""
    process = {"pid": PHASES_PID, "tid": 0}
    added: list[dict] = [{"ph": "M", "name": "process_name", **process, "args": {"name": "Phases"}}]
    for name, start, end in phases:
        times = {"ts": microseconds(start), "dur": microseconds(end - start)}
        added.append({"ph": "X", "cat": "phase", "name": name, **times, **process})
    return added + events


def microseconds(nanoseconds: int) -> str:
    """With three decimals, which are the nanoseconds."""
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03d}"
