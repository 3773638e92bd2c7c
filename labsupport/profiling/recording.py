"""Where the time goes: one op table and one timeline, from torch's, MindSpore's, Ascend's and ONNX Runtime's profilers.

    profile = profiling.profile(lambda: transcriber.transcribe(samples))
    profile.table()

A trace in Chrome's format is where every profile passes through: it is written, then read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from labsupport.base.paths import lab_dir
from labsupport.machine.backend import choose_backend, synchronise
from labsupport.profiling.table import PHASE, Event, Table, make_table, table_of
from labsupport.profiling.trace import read_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Profile:
    """What one run of some work did.

    events: the calls of ops; phases: the named stretches; wall_ms: the run's time with the profiler on, which costs
    time itself; trace: the file in Chrome's format.
    """

    events: tuple[Event, ...]
    phases: tuple[Event, ...]
    wall_ms: float
    trace: Path

    def table(self, phase: str | None = None) -> Table:
        """The op table, of one phase or of all."""
        return table_of(self.select(phase))

    def select(self, phase: str | None = None, kind: str | None = None, op: str = "") -> list[Event]:
        """The events that began in this phase, are of this kind, and whose name holds `op`, in any case."""
        return [
            event
            for event in self.events
            if phase in (None, event.phase) and kind in (None, event.kind) and op.lower() in event.name.lower()
        ]

    def by_phase(self) -> Table:
        """The phases as a table; what lies inside another phase is not counted twice."""
        names = list(dict.fromkeys(phase.name for phase in self.phases))
        own = {name: [phase.self_ms for phase in self.phases if phase.name == name] for name in names}
        return make_table((name, PHASE, len(times), sum(times), max(times), "") for name, times in own.items())

    def busy(self) -> float:
        """The part of the wall time, 0 to 1, in which any op ran: the rest went to what stands around the ops."""
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
        work: a function of no arguments.
        folder: where to keep the trace and what else the profiler writes; by default `traces/latest` in the learner's
            own folder, which the next profile writes over.

    Raises:
        TraceError: the work ran no op of the framework.
    """
    trace = Path(folder or lab_dir() / "traces" / "latest").resolve() / "trace.json"
    trace.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(warmup):
        work()
    synchronise()
    seconds = recorder().record(work, trace)
    events, phases = read_trace(trace)
    return Profile(tuple(events), tuple(phases), 1e3 * seconds, trace)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Labels what runs inside it: `with phase("encoder"): ...`. It waits for the device at both ends, so that the ops
    that it started lie within it.
    """
    synchronise()
    with recorder().mark(name):
        yield
        synchronise()


def recorder() -> ModuleType:
    """The module that records on this process's backend."""
    return import_module(f"labsupport.profiling.on_{choose_backend()}")


class LabelledModel:
    """A Whisper whose encoder, prefill (the first step on an empty cache) and decode steps are phases."""

    def __init__(self, model: Any):
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, mel):
        with phase("encoder"):
            return self.model.encode(mel)

    def step(self, tokens, audio, cache):
        with phase("decode step" if cache.length else "prefill"):
            return self.model.step(tokens, audio, cache)
