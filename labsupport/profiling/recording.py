"""Profiles a piece of work on this process's backend: the profiler writes a trace in Chrome's format, which is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from labsupport.base.paths import lab_dir, using_folder
from labsupport.machine.backend import choose_backend, synchronise
from labsupport.profiling.table import Event, Table, op_table
from labsupport.profiling.trace import read_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Profile:
    """One run of some work. wall_ms: its time, which the profiler lengthens; trace: the file in Chrome's format."""

    events: tuple[Event, ...]
    phases: tuple[Event, ...]
    wall_ms: float
    trace: Path

    def table(self, phase: str | None = None) -> Table:
        """The op table, of one phase or of all."""
        return op_table(self.select(phase))

    def select(self, phase: str | None = None, kind: str | None = None, op: str = "") -> list[Event]:
        """The events that began in this phase, are of this kind, and whose name holds `op`, in any case."""
        return [
            event
            for event in self.events
            if phase in (None, event.phase) and kind in (None, event.kind) and op.lower() in event.name.lower()
        ]

    def by_phase(self) -> Table:
        """The phases as a table; the time of a phase inside another counts for the inner one alone."""
        return op_table(self.phases)

    def busy_fraction(self) -> float:
        """The part of the wall time, 0 to 1, in which any op ran; Python and the queue took the rest."""
        covered, reached = 0.0, 0.0
        for event in sorted(self.events, key=lambda event: event.start_ms):
            covered += max(0.0, event.end_ms - max(reached, event.start_ms))
            reached = max(reached, event.end_ms)
        return covered / self.wall_ms

    def timeline(self, phase: str | None = None, kind: str | None = None, op: str = "") -> Figure:
        """The timeline of what `select` gives, as a figure."""
        from labsupport.profiling.timeline import draw_timeline

        chosen = ", ".join(filter(None, [phase, kind, op and f"{op!r}"]))
        title = f"Timeline: {chosen}" if chosen else "Timeline"
        return draw_timeline(self.select(phase, kind, op), [p for p in self.phases if phase in (None, p.name)], title)


def profile(work: Callable[[], object], folder: Path | None = None, warmup: int = 1) -> Profile:
    """Runs the work `warmup` times, then once more under the profiler of this process's backend.

    Args:
        folder: for what the profiler writes; by default `traces/latest` in the learner's folder, to be overwritten.

    Raises:
        TraceError: the work ran no op of the framework.
    """
    trace = Path(folder or lab_dir() / "traces" / "latest").resolve() / "trace.json"
    with using_folder(trace.parent, "LAB_HOME"):
        trace.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(warmup):
        work()
    synchronise()
    seconds = backend_profiler().record(work, trace)
    events, phases = read_trace(trace)
    return Profile(tuple(events), tuple(phases), 1e3 * seconds, trace)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Labels what runs inside it: `with phase("encoder"): ...`. It waits for the device at both ends, so that the ops
    that it started lie within it.
    """
    synchronise()
    with backend_profiler().label(name):
        yield
        synchronise()


def backend_profiler() -> ModuleType:
    """The module that records on this process's backend."""
    return import_module(f"labsupport.profiling.on_{choose_backend()}")


class LabelledModel:
    """A Whisper whose encoder, cross-attention's keys and values, prefill and decode steps are phases."""

    def __init__(self, model: Any):
        self.model = model
        self.encode = phase("encoder")(model.encode)
        self.project_cross_kv = phase("cross kv")(model.project_cross_kv)
        self.prefill = phase("prefill")(model.prefill)
        self.decode_step = phase("decode step")(model.decode_step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
