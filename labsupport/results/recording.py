"""How a benchmark says what it measured: a row for each number, and a table or line printed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from labsupport.results import rows, worker
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

    def workers(self, what: str, started: Iterable[worker.Worker], runs: int, warmup: int = 1) -> None:
        """Times every task of the workers, and closes them: a row for each worker, written by it, and a table a task.

        Args:
            what: a row's name, with {task} and {worker} in place of their names.
            started: the workers. A task that only some of them have is timed in those.
            runs, warmup: as in `worker.compare`.
        """
        with ExitStack() as stack:
            workers = {each.name: stack.enter_context(each) for each in started}
            for task in dict.fromkeys(task for each in workers.values() for task in each.tasks):
                able = {name: each for name, each in workers.items() if task in each.tasks}
                timed = worker.compare(able, task, runs, warmup)
                for name, each in able.items():
                    numbers = {"spread": timed[name].spread, "runs": runs, **self.details}
                    each.record(what.format(task=task, worker=name), timed[name].median, "s", **numbers)
                print(f"\n{what.format(task=task, worker='each')}\n{timed}", flush=True)
