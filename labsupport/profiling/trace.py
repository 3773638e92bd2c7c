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
from labsupport.profiling.kinds import kind_of
from labsupport.profiling.table import PHASE, Event

TORCH_DEVICES = {"cpu_op": "cpu", "kernel": "cuda", "gpu_memcpy": "cuda", "gpu_memset": "cuda"}
PROCESS_DEVICES = {"CPU OP": "cpu", "Ascend Hardware": "npu", "Phases": PHASE}


@dataclass(frozen=True)
class Span:
    """A stretch of a trace in whole nanoseconds, so that nested ops add up exactly.

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
    """The ops, each with its own time and its phase; and the phases.

    Raises:
        TraceError: there is no file.
        TraceError: it holds no op of torch, MindSpore or Ascend.
        TraceError: it breaks off, or an event lacks its name or its times.
        TraceError: it is no trace.
    """
    spans = read_spans(Path(path))
    first = min(span.start for span in spans)
    phases = [to_event(span, PHASE, first, own) for span, own in own_times(s for s in spans if s.device == PHASE)]
    ops = [to_event(s, kind_of(s.name), first, own) for s, own in own_times(s for s in spans if s.device != PHASE)]
    return label_phases(ops, phases), phases


def read_spans(path: Path) -> list[Span]:
    """The ops and phases of a trace, in the file's order; raises as `read_trace`."""
    raw = load_events(path)
    try:
        processes = process_names(raw)
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
    """The text of a profiler's file, which is not empty; `thing` is what a reader calls it.

    Raises:
        TraceError, TraceError, TraceError: there is none, it is no text, or it holds none.
    """
    try:
        text = path.read_text(encoding=encoding)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise TraceError(f"There is no such {thing}.", where=path, hint="Profile something first.") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"This is no text, so no {thing}.", where=path) from error
    if not text.strip():
        raise TraceError(f"This {thing} is empty.", where=path, hint="Did the profiler's process end early?")
    return text


def process_names(raw: list[dict]) -> dict:
    """The name of each process that the trace introduces."""
    return {entry["pid"]: entry["args"]["name"] for entry in raw if entry.get("name") == "process_name"}


def to_span(entry: dict, processes: dict) -> Span | None:
    """An op or a phase; None for anything else that a trace holds."""
    if entry.get("ph") != "X":
        return None
    device = TORCH_DEVICES.get(entry.get("cat")) or PROCESS_DEVICES.get(processes.get(entry["pid"]))
    if entry.get("cat") == "user_annotation" and "#" not in entry["name"]:  # with it, torch marks its own doings
        device = PHASE
    if device is None:
        return None
    start, length = (round(1000 * Decimal(str(entry[key]))) for key in ("ts", "dur"))
    nests = device == PHASE or entry.get("cat") == "cpu_op"
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


def own_times(spans: Iterable[Span]) -> list[tuple[Span, int]]:
    """Each span with its nanoseconds outside the spans that it calls itself."""
    lanes, own = defaultdict(list), []
    for span in spans:
        if span.nests:
            lanes[span.device, span.lane].append(span)
        else:
            own.append((span, span.length))
    return own + [pair for lane in lanes.values() for pair in own_times_of_lane(lane)]


def own_times_of_lane(spans: list[Span]) -> list[tuple[Span, int]]:
    ordered = sorted(spans, key=lambda span: (span.start, -span.length))
    own, open_spans = [span.length for span in ordered], []
    for number, span in enumerate(ordered):
        while open_spans and ordered[open_spans[-1]].start + ordered[open_spans[-1]].length <= span.start:
            open_spans.pop()
        if open_spans:
            own[open_spans[-1]] -= span.length
        open_spans.append(number)
    return [(span, max(0, nanoseconds)) for span, nanoseconds in zip(ordered, own, strict=True)]


def to_event(span: Span, kind: str, first: int, own: int) -> Event:
    """Nanoseconds on the profiler's clock -> milliseconds since the first event."""
    device = "" if kind == PHASE else span.device
    return Event(span.name, kind, (span.start - first) / 1e6, span.length / 1e6, own / 1e6, device, span.lane)


def label_phases(ops: list[Event], phases: list[Event]) -> list[Event]:
    """The ops in the order of their start, each with the innermost phase in which it began."""
    waiting, open_phases, labelled = sorted(phases, key=lambda p: (p.start_ms, -p.ms)), [], []
    for op in sorted(ops, key=lambda op: op.start_ms):
        while waiting and waiting[0].start_ms <= op.start_ms:
            open_phases.append(waiting.pop(0))
        open_phases = [phase for phase in open_phases if op.start_ms < phase.end_ms]
        labelled.append(replace(op, phase=open_phases[-1].name) if open_phases else op)
    return labelled
