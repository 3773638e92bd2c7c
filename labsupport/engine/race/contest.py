"""One sound, all entrants: each alone first (loading, first run, memory), then all of them warm, round by round."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labsupport.base.errors import EngineError, LabError
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.race.conversions import find_form
from labsupport.engine.race.entrants import Entrant
from labsupport.engine.race.environment import require_environment
from labsupport.engine.race.sounds import Sound
from labsupport.results import worker
from labsupport.results.load import Load, look_before, share_of_others, take_snapshot
from labsupport.results.process_memory import MemoryWatch
from labsupport.results.timing import Comparison, Measurement
from labsupport.results.worker import Worker

RUNNING = "labsupport.engine.race.running"
LIMIT = 900.0  # seconds that one task of an entrant may take

Say = Callable[[str], None]
Split = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Alone:
    """What an entrant needs while no other runs: seconds to load the model and for the first transcription after that,
    bytes of memory at most during a later one and in all, and bytes of its model on disk.

    split: see `ours.measure_split`.
    """

    load: float
    first: float
    peak: int
    peak_ever: int
    disk: int
    split: Split | None = None


@dataclass
class Contest:
    """What came out: name -> how it did alone; wall and CPU seconds of each round; the last answer; or its error."""

    sound: Sound
    alone: dict[str, Alone] = field(default_factory=dict)
    times: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    load: Load | None = None

    def drop(self, name: str, error: LabError) -> None:
        """It takes part no more."""
        self.errors[name] = " ".join(filter(None, [error.what, str(error.where or ""), error.hint]))
        for found in (self.alone, self.times, self.answers):
            found.pop(name, None)

    def comparison(self) -> Comparison:
        """Of those that finished, in the entrants' order."""
        measured = {}
        for name, times in self.times.items():
            wall, cpu = zip(*times, strict=True)
            measured[name] = Measurement(name, wall, cpu, self.alone[name].peak, audio_seconds=self.sound.seconds)
        return Comparison(measured, self.load)


def hold(
    checkpoint: Checkpoint,
    sound: Sound,
    entrants: Sequence[Entrant],
    rounds: int,
    threads: int,
    say: Say = lambda text: None,
) -> Contest:
    """Runs them; one that fails is listed with its error, and the others go on."""
    contest = Contest(sound)
    with tempfile.TemporaryDirectory() as folder:
        start = Starter(checkpoint, save_clips(sound, Path(folder)), Path(folder), threads)
        for entrant in entrants:
            say(f"{sound.name}: {entrant.name}, alone")
            with listing_errors(contest, entrant.name):
                contest.alone[entrant.name] = measure_alone(entrant, start)
        check_memory(contest.alone.values())
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for entrant in entrants:
                if entrant.name in contest.alone:
                    with listing_errors(contest, entrant.name):
                        workers[entrant.name] = warm_up(stack.enter_context(start(entrant)), entrant.warmup)
            run_rounds(contest, workers, rounds, say)
    return contest


@contextlib.contextmanager
def listing_errors(contest: Contest, name: str) -> Iterator[None]:
    """An error of this entrant in the block is listed; what stops the race, such as Ctrl-C, is not."""
    try:
        yield
    except LabError as error:
        contest.drop(name, error)


def save_clips(sound: Sound, folder: Path) -> list[str]:
    paths = [folder / f"{number}.npy" for number in range(len(sound.clips))]
    for path, samples in zip(paths, sound.clips, strict=True):
        np.save(path, samples)
    return [str(path) for path in paths]


@dataclass(frozen=True)
class Starter:
    """Starts an entrant's process; its messages go to a file in `folder`."""

    checkpoint: Checkpoint
    clips: list[str]
    folder: Path
    threads: int

    def __call__(self, entrant: Entrant) -> Worker:
        settings = {**entrant.settings, **({"name": self.checkpoint.name} if entrant.is_ours else {})}
        order = {
            "opener": entrant.opener, "folder": str(find_form(self.checkpoint, entrant.form).folder),
            "threads": self.threads, "multilingual": self.checkpoint.config.multilingual, "settings": settings,
            "clips": self.clips,
        }  # fmt: skip
        python = str(require_environment().python) if entrant.home == "race" else None
        log = self.folder / f"{entrant.name}.log"
        backend = "mindspore" if entrant.settings.get("engine") == "mindspore" else "torch"
        return worker.start(
            entrant.name, RUNNING, json.dumps(order), backend=backend, python=python, log=log,
            OMP_NUM_THREADS=str(self.threads), MKL_NUM_THREADS=str(self.threads), HF_HUB_OFFLINE="1",
            TOKENIZERS_PARALLELISM="false",
        )  # fmt: skip


def measure_alone(entrant: Entrant, start: Starter) -> Alone:
    disk = find_form(start.checkpoint, entrant.form).size
    with start(entrant) as running:
        with MemoryWatch(running.process.pid) as ever:
            load = run_task(running, "load")[0]
            first = run_task(running, "transcribe")[0]
        with MemoryWatch(running.process.pid) as later:
            run_task(running, "transcribe")
        split = run_task(running, "split")[2] if entrant.is_ours else None
    return Alone(load, first, later.peak, max(ever.peak, later.peak), disk, split)


def run_task(running: Worker, task: str) -> tuple[float, float, Any]:
    """Wall and CPU seconds, and the result; EngineError where it takes longer than LIMIT."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        running.process.kill()

    timer = threading.Timer(LIMIT, expire)
    timer.start()
    try:
        return running.run(task)
    except LabError as error:
        if expired.is_set():
            raise EngineError(f"{running.name} took longer than {LIMIT:g} s.", where=task) from error
        raise
    finally:
        timer.cancel()


def check_memory(alone: Any) -> None:
    """Raises EngineError where all entrants together, each loaded once, would not fit into the free memory."""
    import psutil

    needed, free = sum(each.peak_ever for each in alone), psutil.virtual_memory().available
    if needed > free:
        what = f"The entrants need {needed / 1e9:.1f} GB together, and {free / 1e9:.1f} GB are free."
        raise EngineError(what, hint="Race fewer of them at once: --entrants.")


def warm_up(running: Worker, runs: int) -> Worker:
    for task in ("load", *["transcribe"] * runs):
        run_task(running, task)
    return running


def run_rounds(contest: Contest, workers: dict[str, Worker], rounds: int, say: Say) -> None:
    """Times a transcription of each in turns; whoever fails takes part no more."""
    before, start = look_before(), take_snapshot()
    for number in range(1, rounds + 1):
        say(f"{contest.sound.name}: round {number} of {rounds}")
        for name in [name for name in workers if name not in contest.errors]:
            with listing_errors(contest, name):
                wall, cpu, answer = run_task(workers[name], "transcribe")
                contest.times.setdefault(name, []).append((wall, cpu))
                contest.answers.setdefault(name, []).append(answer)
    contest.load = Load(before, share_of_others(start, take_snapshot()))
