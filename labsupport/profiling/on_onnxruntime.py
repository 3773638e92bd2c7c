"""Reads the profile that ONNX Runtime writes, and runs a session under it.

Format: a list in Chrome's trace format. An event of category "Node" is one call of a kernel, with the op's type and
the execution provider in its arguments; "Session" events enclose them, of which `model_run` is one whole run. Times are
whole microseconds. Source: onnxruntime/core/common/profiler.cc.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.base.errors import TraceError
from labsupport.profiling.kinds import op_kind
from labsupport.profiling.table import PHASE, Event
from labsupport.profiling.trace import label_phases, load_events

if TYPE_CHECKING:
    import onnxruntime

RUN = "model_run"
KERNEL = "_kernel_time"
DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "CANNExecutionProvider": "npu"}


def read_onnxruntime(path: Path) -> tuple[list[Event], list[Event]]:
    """The kernels that ran, each with its run as its phase; and the runs, "run 1", "run 2" and so on.

    Raises:
        TraceError: the file is missing or damaged, another program's, or of a session that ran no kernel.
    """
    raw = load_events(Path(path))
    if raw and not any(isinstance(entry, dict) and entry.get("cat") in ("Node", "Session") for entry in raw):
        raise TraceError("This trace is not ONNX Runtime's: it has neither nodes nor a session.", where=path)
    try:
        runs = [to_event(entry, RUN, PHASE, "") for entry in raw if entry["name"] == RUN]
        ops = [to_op(entry) for entry in raw if entry["cat"] == "Node" and entry["name"].endswith(KERNEL)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TraceError("An event of this profile lacks its op, or a time that is a number.", where=path) from error
    if not ops:
        raise TraceError("This profile holds no kernel.", where=path, hint="Run the session before it ends profiling.")
    return label_runs(ops, sorted(runs, key=lambda run: run.start_ms))


def to_op(entry: dict) -> Event:
    """A kernel's call: named by its op's type, as the other profilers name theirs."""
    name, provider = entry["args"]["op_name"], entry["args"]["provider"]
    device = DEVICES.get(provider, provider.removesuffix("ExecutionProvider").lower())
    return to_event(entry, name, op_kind(name), device)


def to_event(entry: dict, name: str, kind: str, device: str) -> Event:
    start, length = int(entry["ts"]) / 1e3, int(entry["dur"]) / 1e3
    return Event(name, kind, start, length, length, device, f"{entry['pid']}:{entry['tid']}")


def label_runs(ops: list[Event], runs: list[Event]) -> tuple[list[Event], list[Event]]:
    """Times counted from the first event on; runs numbered; each op labelled with its run."""
    first = min(event.start_ms for event in [*ops, *runs])
    ops = [replace(op, start_ms=op.start_ms - first) for op in ops]
    runs = [replace(run, name=f"run {n}", start_ms=run.start_ms - first) for n, run in enumerate(runs, 1)]
    return label_phases(ops, runs), runs


def record_session(session: onnxruntime.InferenceSession, work: Callable[[], object], runs: int, trace: Path) -> None:
    """Runs the work `runs` times on a session made with `enable_profiling`, and moves its one profile to `trace`."""
    for _ in range(runs):
        work()
    trace.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(session.end_profiling(), trace)
