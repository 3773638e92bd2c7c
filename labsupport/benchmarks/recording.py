"""How a benchmark says what it measured: a row for each number, and a table or line printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labsupport.benchmarks.worker import Worker
from labsupport.results import rows
from labsupport.results.timing import Comparison


@dataclass(frozen=True)
class Recording:
    """What all rows of one benchmark share: the file that they go to, the model, and the clip."""

    group: str
    model: str
    clip: str | None = None

    @property
    def details(self) -> dict[str, str | None]:
        return {"group": self.group, "model": self.model, "clip": self.clip}

    def value(self, what: str, value: float, unit: str, **details) -> None:
        """A row and a line; details as for `rows.record`."""
        rows.record(what, value, unit, **{**self.details, **details})
        print(f"{what}: {value:.4g} {unit}", flush=True)

    def comparison(self, what: str, timed: Comparison, **details) -> None:
        """A row for each variant ("what: variant"), and the table."""
        timed.record(what, **{**self.details, **details})
        print(f"\n{what}\n{timed}", flush=True)

    def workers(self, what: str, timed: Comparison, workers: Mapping[str, Worker]) -> None:
        """A row for each worker, written by it, and the table; `what` holds {} in place of the worker's name."""
        for name, worker in workers.items():
            part = timed[name]
            worker.record(what.format(name), part.median, "s", spread=part.spread, runs=len(part.wall), **self.details)
        print(f"\n{what.format('each')}\n{timed}", flush=True)
