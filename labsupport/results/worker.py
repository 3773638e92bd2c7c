"""Processes that time the tasks of a benchmark: one framework or engine in each, in turns (A B A B).

The protocol is JSON lines. A worker's first line is the list of its tasks' names. Then it answers every line that it
reads: {"run": NAME} with [WALL SECONDS, CPU SECONDS, RESULT], and {"record": ARGUMENTS} with null, after
`rows.record(**ARGUMENTS)`. Rows are written by the worker, for they name the machine and the versions as its framework
sees them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from labsupport.base.errors import BenchError, printable
from labsupport.base.paths import ROOT
from labsupport.machine import children
from labsupport.results import rows
from labsupport.results.load import cpu_seconds
from labsupport.results.timing import Comparison, Measurement

SERVE = "from labsupport.results.worker import serve; serve(*sys.argv[1:])"


def serve(module: str, *arguments: str) -> None:
    """Inside the worker: answers for the tasks of `module.make_tasks(*arguments)`, by name, until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come among the answers
    tasks = importlib.import_module(module).make_tasks(*arguments)
    answer(answers, list(tasks))
    for line in sys.stdin:
        order = json.loads(line)
        if "run" in order:
            answer(answers, time_task(tasks[order["run"]]))
        else:
            rows.record(**order["record"])
            answer(answers, None)


def answer(stream: TextIO, content: object) -> None:
    """Writes the answer; where nobody reads it any more, this process ends: who asked was ended, and has said so."""
    try:
        print(json.dumps(content), file=stream, flush=True)
    except BrokenPipeError:
        os._exit(1)  # at an ordinary end Python would try once more to write what `stream` still holds


def time_task(task: Callable[[], object]) -> tuple[float, float, object]:
    """Wall and CPU seconds of one call, children's included, and what it gave."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = task()
    wall = time.perf_counter() - wall
    return wall, cpu_seconds() - cpu, result


def start(
    name: str,
    module: str,
    *arguments: str,
    backend: str,
    python: str | None = None,
    log: Path | None = None,
    **variables: str,
) -> Worker:
    """A worker for `module.make_tasks(*arguments)`, in a process with this backend, and these environment variables.

    Args:
        python: another environment's interpreter; it needs what `module` and this file import, and no more of the lab.
        log: as for `Worker`.
    """
    shared = {"LAB_BACKEND": backend, "LAB_RUN_ID": rows.run_id(), **variables}
    return Worker(name, children.python_code(SERVE, module, *arguments, python=python), shared, log)


class Worker:
    """A process that speaks the protocol; at the end of a `with` block it is closed, or ended where an error came.

    log: where its messages go in place of standard error; an error then quotes the last of them.

    Raises:
        BenchError: it ended, or answered what is no JSON.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
    ):
        self.name, self.log = name, log
        with open(log, "ab") if log else contextlib.nullcontext() as messages:
            self.process = subprocess.Popen(
                children.guarded(command), cwd=ROOT, env=children.environment(**(environment or {})),
                text=True, stdin=-1, stdout=-1, stderr=messages,
            )  # fmt: skip
        try:
            self.tasks: list[str] = self.read()
        except BaseException:  # such as Ctrl-C while it still loads; no `with` block has begun that would end it
            self.process.kill()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind:  # such as Ctrl-C: its task may take minutes more
            self.process.kill()
        self.process.communicate()

    def run(self, task: str) -> tuple[float, float, Any]:
        """Wall and CPU seconds of the task in the worker, and its result."""
        wall, cpu, result = self.ask({"run": task})
        return wall, cpu, result

    def record(self, what: str, value: float, unit: str, **details) -> None:
        """As `rows.record`, in the worker."""
        self.ask({"record": {"what": what, "value": value, "unit": unit, **details}})

    def ask(self, order: dict) -> Any:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended; `read` says so
            print(json.dumps(order), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            code = self.process.wait()
            hint = None if self.log else "Its message stands above."
            raise BenchError(f"The worker {self.name} ended with code {code}.", where=self.last_message(), hint=hint)
        try:
            return json.loads(line)
        except ValueError as error:
            self.process.kill()
            where = printable(line.strip()[:200])
            raise BenchError(f"The worker {self.name} answered what is no JSON.", where=where) from error

    def last_message(self) -> str | None:
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log else []
        return printable(next(filter(str.strip, reversed(lines)), "")[:300]) or None


def compare(workers: Mapping[str, Worker], task: str, runs: int, warmup: int = 1) -> Comparison:
    """The workers' times for one task, run by run in turns, after `warmup` runs of each whose results must be equal.

    Raises:
        BenchError: the results differ.
    """
    for _ in range(warmup):
        results = {name: worker.run(task)[2] for name, worker in workers.items()}
    if any(result != next(iter(results.values())) for result in results.values()):
        raise BenchError(f"{task}: the results differ.", where=results)
    rounds = [{name: worker.run(task)[:2] for name, worker in workers.items()} for _ in range(runs)]
    walls = {name: tuple(seconds[name][0] for seconds in rounds) for name in workers}
    cpus = {name: tuple(seconds[name][1] for seconds in rounds) for name in workers}
    return Comparison({name: Measurement(name, walls[name], cpus[name], None) for name in workers})
