"""Reads a timeline in Chrome's trace format: torch's, MindSpore's on a CPU, and Ascend's `trace_view.json`.

Format: "Trace Event Format", Google. torch writes an object with `traceEvents`, MindSpore and Ascend the bare list,
with times as decimal strings.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from labsupport.base.errors import TraceError
from labsupport.profiling.kinds import op_kind
from labsupport.profiling.table import PHASE, Event

TORCH_DEVICES = {"cpu_op": "cpu", "kernel": "cuda", "gpu_memcpy": "cuda", "gpu_memset": "cuda"}
PROCESS_DEVICES = {"CPU OP": "cpu", "Ascend Hardware": "npu", "Phases": PHASE}


@dataclass(frozen=True)
class Span:
    """A call of an op or a phase, in whole nanoseconds, so that nested ops add up exactly.

    device: "phase" for phases; nests: whether what lies inside it on its lane was called by it. Kernels of an
    accelerator and of MindSpore call nothing, and may overlap.
    """

    name: str
    start: int
    length: int
    device: str
    lane: str
    nests: bool


def read_trace(path: Path) -> tuple[list[Event], list[Event]]:
    """The ops, each with its self time and its phase; and the phases.

    Raises:
        TraceError: the file is missing or damaged, no trace, or without an op of torch, MindSpore or Ascend.
    """
    spans = read_spans(Path(path))
    first = min(span.start for span in spans)
    of_phases, of_ops = (self_times(s for s in spans if (s.device == PHASE) is wanted) for wanted in (True, False))
    phases = [to_event(span, PHASE, first, self_time) for span, self_time in of_phases]
    ops = [to_event(span, op_kind(span.name), first, self_time) for span, self_time in of_ops]
    return label_phases(ops, phases), phases


def read_spans(path: Path) -> list[Span]:
    """The ops and phases of a trace, in the file's order; raises as `read_trace`."""
    raw = load_events(path)
    try:
        processes = {entry["pid"]: entry["args"]["name"] for entry in raw if entry.get("name") == "process_name"}
        spans = [span for entry in raw if (span := to_span(entry, processes))]
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise TraceError("An event of this trace lacks a name, or a time that is a number.", where=path) from error
    if all(span.device == PHASE for span in spans):
        hint = "Did the work compute anything while the profiler was on?"
        raise TraceError("This trace holds no op of torch, MindSpore or Ascend.", where=path, hint=hint)
    return spans


def load_events(path: Path) -> list[dict]:
    """The raw events of a trace file; raises as `read_trace`."""
    text = read_text(path, "trace", encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "Profile again: the file was not written to its end."
        raise TraceError(f"This trace is no whole JSON: {error}.", where=path, hint=hint) from error
    events = content.get("traceEvents") if isinstance(content, dict) else content
    if not isinstance(events, list):
        raise TraceError("This JSON is no trace: it has no list of events.", where=path)
    return events


def read_text(path: Path, thing: str, encoding: str) -> str:
    """The text of a profiler's file; `thing` is what TraceError calls a file that is missing, empty or no text."""
    try:
        text = path.read_text(encoding=encoding)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise TraceError(f"There is no such {thing}.", where=path, hint="Profile something first.") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"This is no text, so no {thing}.", where=path) from error
    if not text.strip():
        raise TraceError(f"This {thing} is empty.", where=path, hint="Did the profiler's process end early?")
    return text


def to_span(entry: dict, processes: dict) -> Span | None:
    """An op or a phase; None for anything else that a trace holds."""
    if entry.get("ph") != "X":
        return None
    category = entry.get("cat", "")
    device = TORCH_DEVICES.get(category) or PROCESS_DEVICES.get(processes.get(entry["pid"], ""))
    if category == "user_annotation" and "#" not in entry["name"]:  # torch's own annotations have a "#"
        device = PHASE
    if device is None:
        return None
    start, length = (round(1000 * Decimal(str(entry[key]))) for key in ("ts", "dur"))
    nests = device == PHASE or category == "cpu_op"
    return Span(short_name(entry["name"]), start, length, device, f"{entry['pid']}:{entry.get('tid', 0)}", nests)


def short_name(name: str) -> str:
    """An op without the place where it stands (MindSpore) or its template arguments (CUDA).

    "Default/encoder-Encoder/Conv2D-op3" -> "Conv2D"; "void at::native::(anonymous namespace)::softmax<4, float>(int)"
    -> "softmax".
    """
    if name.startswith("void ") or "<" in name:
        while re.search(r"<[^<>]*>", name):
            name = re.sub(r"<[^<>]*>", "", name)
        name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
        return name.partition("(")[0].rpartition("::")[2].strip() or name
    return re.sub(r"-op\d+$", "", name.rpartition("/")[2])


def self_times(spans: Iterable[Span]) -> list[tuple[Span, int]]:
    """Each span with its nanoseconds outside the spans that it calls itself."""
    lanes: dict[object, list[Span]] = defaultdict(list)
    for number, span in enumerate(spans):
        lanes[(span.device, span.lane) if span.nests else number].append(span)
    return [pair for lane in lanes.values() for pair in self_times_of_lane(lane)]


def self_times_of_lane(spans: list[Span]) -> list[tuple[Span, int]]:
    ordered = sorted(spans, key=lambda span: (span.start, -span.length))
    times = [span.length for span in ordered]
    callers: list[int] = []  # the calls that enclose the current one, innermost last
    for number, span in enumerate(ordered):
        while callers and ordered[callers[-1]].start + ordered[callers[-1]].length <= span.start:
            callers.pop()
        if callers:
            times[callers[-1]] -= span.length
        callers.append(number)
    return [(span, max(0, nanoseconds)) for span, nanoseconds in zip(ordered, times, strict=True)]


def to_event(span: Span, kind: str, first: int, self_time: int) -> Event:
    """Nanoseconds on the profiler's clock -> milliseconds since the first event."""
    device = "" if kind == PHASE else span.device
    return Event(span.name, kind, (span.start - first) / 1e6, span.length / 1e6, self_time / 1e6, device, span.lane)


def label_phases(ops: list[Event], phases: list[Event]) -> list[Event]:
    """The ops in the order of their start, each with the innermost phase in which it began."""
    later, current, labelled = sorted(phases, key=lambda p: (p.start_ms, -p.ms)), [], []
    for op in sorted(ops, key=lambda op: op.start_ms):
        while later and later[0].start_ms <= op.start_ms:
            current.append(later.pop(0))
        current = [phase for phase in current if op.start_ms < phase.end_ms]
        labelled.append(replace(op, phase=current[-1].name) if current else op)
    return labelled
