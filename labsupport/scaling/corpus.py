"""A corpus of sound files through Whisper, on workers of Ray: each file becomes a row of a parquet part.

Ray Data gives the files to a pool of actors, each with a model of its own. This process alone writes, so whatever ends
it or a worker loses and doubles no row: what had no row yet is transcribed again by the next call.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from labsupport.base.cached_folder import hash_file
from labsupport.base.errors import ScalingError, TextError, WhisperError
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint
from labsupport.checkpoints.safetensors_files import find_weights
from labsupport.machine.stop_signals import StopSignals
from labsupport.scaling.manifest import Item, find_corpus
from labsupport.scaling.parts import Plan, Store, make_plan, open_store, row_path, schema
from labsupport.scaling.ray_session import ThisThread, ray_session
from labsupport.scaling.worker import Settings, Worker
from labsupport.speech.text import wer

ROWS = 500  # of a part, at most
SECONDS = 30  # after which rows that have come are written
BLOCKS = 10_000  # at most; a block is what a worker is given at once, and does again after its death
RETRIES = 2  # of a block whose worker died; while that one starts anew, another block may use its own up
ROUNDS = 2  # what has no row after the first one is tried again, apart from the others
DIED = "WorkerDied"  # the error_kind of a file that has no row after the last one


@dataclass
class Summary:
    """What became of the files of a corpus: how many are done, now and before, and how many of all have failed.

    speech, seconds: of sound that was transcribed now, and how long that took.
    interrupted: a signal came; `waiting` files have no row.
    """

    files: int
    before: int = 0
    done: int = 0
    failed: int = 0
    speech: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def waiting(self) -> int:
        return self.files - self.before - self.done


@dataclass(frozen=True)
class Pool:
    """The workers.

    workers: processes, each with the model in memory.
    gpus: that Ray reserves for each, such as 0.5; with 0 nothing is reserved, and all of them see what is there.
    address: of a cluster, whose machines see the same files and have the same packages; None starts Ray here.
    in_flight: files that a worker is given at once, so that it need not wait; with it, all of them die.
    """

    workers: int = 1
    gpus: float = 0
    address: str | None = None
    in_flight: int = 2


class Reporter(Protocol):
    """Is told what a user may want to see."""

    def note(self, text: str) -> None:
        """Something to know about the corpus."""

    def progress(self, summary: Summary, written: bool) -> None:
        """A row has come; or some were `written`."""


@dataclass
class Recorder:
    """Takes rows, and writes them part by part."""

    store: Store
    summary: Summary
    reporter: Reporter
    rows: list[dict] = field(default_factory=list)
    written_at: float = field(default_factory=time.monotonic)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        self.summary.done += 1
        self.summary.failed += row["error"] is not None
        self.summary.speech += row["duration"] or 0.0
        self.reporter.progress(self.summary, written=False)
        if len(self.rows) >= ROWS or time.monotonic() > self.written_at + SECONDS:
            self.write()

    def write(self) -> None:
        if self.rows:
            self.store.write(self.rows)
            self.rows, self.written_at = [], time.monotonic()
            self.reporter.progress(self.summary, written=True)


def transcribe_corpus(
    source: str | os.PathLike,
    output: str | os.PathLike,
    settings: Settings,
    reporter: Reporter,
    stop: StopSignals | None = None,
    pool: Pool = Pool(),
    redo: bool = False,
    worker: type = Worker,
) -> Summary:
    """Transcribes each file of a folder or table that has no row in `output` yet, and gives what became of them.

    Args:
        source: see `find_corpus`.
        output: a folder; its parts are read as one table, for example with `pandas.read_parquet(output)`.
        pool: how many workers, and where.
        redo: do again what was done with other options; without it, that is an error.
        worker: the class of the actors.

    Raises:
        ScalingError: of `find_corpus`, `open_store`, `ray_session`; or the output was made with other options.
        CheckpointError: there is no such model.
        WhisperError: the model does not know the language or the task.
    """
    corpus, stop = find_corpus(source), stop or StopSignals()
    settings = pin_model(settings)
    for note in corpus.notes:
        reporter.note(note)
    with open_store(Path(output)) as store:
        plan = make_plan(corpus.items, store, settings.digest)
        check_options(plan, store, settings.digest, redo)
        if plan.beside:
            reporter.note(f"Rows of files that this input does not name, which stay: {len(plan.beside)}.")
        plan = choose_plan(plan, corpus.items, store)
        summary, begin = Summary(len(corpus.items), before=len(plan.done)), time.monotonic()
        summary.failed = sum(store.states[path]["error_kind"] is not None for path in plan.done)
        recorder = Recorder(store, summary, reporter)
        judge_anew(plan, store, recorder)
        try:
            work_off(plan.waiting, settings, recorder, stop, pool, worker)
        except KeyboardInterrupt:
            summary.interrupted = True
        finally:
            recorder.write()
        summary.seconds = time.monotonic() - begin
    return summary


def pin_model(settings: Settings) -> Settings:
    """The same with a hash of what `model` stands for; a folder by its full path, for workers stand elsewhere.

    Raises:
        CheckpointError: there is no such model.
    """
    checkpoint = find_checkpoint(settings.model)
    is_folder = settings.model not in PACKAGED and Path(settings.model).expanduser().is_dir()
    files = {*find_weights(checkpoint.folder), *checkpoint.folder.glob("*.json")}
    hashes = " ".join(hash_file(path) for path in sorted(files))
    return replace(settings, model=str(checkpoint.folder) if is_folder else settings.model, weights=hashes)


def check_options(plan: Plan, store: Store, options: str, redo: bool) -> None:
    """Raises ScalingError where the output would hold rows that were made with different options."""
    if strangers := [path for path in plan.beside if store.states[path]["options"] != options]:
        what = f"{len(strangers)} files that this input does not name were transcribed with other options."
        raise ScalingError(what, where=store.folder, hint="Give another --output.")
    if plan.others and not redo:
        hint = "Give another --output; or --redo, which does them again and replaces their rows."
        what = f"{len(plan.others)} files were transcribed with other options, or by another version."
        raise ScalingError(what, where=store.folder, hint=hint)


def choose_plan(plan: Plan, items: Sequence[Item], store: Store) -> Plan:
    """The plan, without rows whose file is another now. Those of other options stay until there are new ones."""
    again = [item for item in items if row_path(item.path) in plan.others]
    store.drop(plan.stale)
    return replace(plan, waiting=plan.waiting + again, others=set())


def judge_anew(plan: Plan, store: Store, recorder: Recorder) -> None:
    """Where only the reference has changed, the row gets the new one, and its error rate."""
    items = {row_path(item.path): item for item in plan.judged_anew}
    for row in store.rows(set(items)):
        recorder.add(finish(row, items[row["path"]]))
    recorder.write()


def work_off(
    items: Sequence[Item], settings: Settings, recorder: Recorder, stop: StopSignals, pool: Pool, worker: type
) -> None:
    """A row for each of the items, unless a signal comes."""
    if not items:
        return
    waiting = dict(enumerate(items))
    with contextlib.ExitStack() as stack:
        with stop.interruptible():
            stack.enter_context(ray_session(pool.workers, pool.address))
        check_gpus(pool)
        for _ in range(1, ROUNDS):
            take_rows(waiting, settings, recorder, stop, pool, worker)
        # at last each file alone, so that none fails for what another does
        take_rows(waiting, settings, recorder, stop, replace(pool, in_flight=1), worker)
    for item in waiting.values():
        recorder.add(finish(describe_death(settings), item))


def take_rows(
    waiting: dict[int, Item], settings: Settings, recorder: Recorder, stop: StopSignals, pool: Pool, worker: type
) -> None:
    """Records a row for each of the items that can be had, and takes these off."""
    if not waiting:
        return
    rows = stream_rows(dict(waiting), settings, pool, worker)
    with contextlib.redirect_stdout(ThisThread(sys.stdout)):  # rows say shorter what became of a worker
        while True:
            with stop.interruptible():  # what is written is written whole
                number, row = next(rows, (None, {}))
            if number is None:
                break
            if fatal := row.get("fatal"):
                raise WhisperError(fatal["what"], where=fatal["where"], hint=fatal["hint"])
            if number in waiting:
                recorder.add(finish(row, waiting.pop(number)))


def check_gpus(pool: Pool) -> None:
    """Raises ScalingError where a worker asks for more than there is: Ray would wait for it without end."""
    import ray

    found = ray.cluster_resources().get("GPU", 0)
    if pool.gpus > found:
        raise ScalingError(f"A worker asks for {pool.gpus:g} GPUs, and Ray finds {found:g}.", hint="Lower --gpus.")


def stream_rows(
    items: dict[int, Item], settings: Settings, pool: Pool, worker: type
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the item, its row), as they come; nothing for an item over which its worker died each time."""
    import ray.data

    inputs = [{"number": number, "file": os.fsencode(item.file)} for number, item in items.items()]
    data = ray.data.from_items(inputs, override_num_blocks=min(len(inputs), BLOCKS))
    workers = min(pool.workers, len(inputs))
    actors = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=pool.in_flight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the last two, which have no other name yet
        rows = data.map(
            worker, compute=actors, fn_constructor_args=(settings,), num_cpus=1, num_gpus=pool.gpus or None,
            max_restarts=-1, max_task_retries=RETRIES,
        )  # fmt: skip
    for each in rows.iter_rows():
        yield each["number"], json.loads(each["row"])


def finish(row: dict[str, Any], item: Item) -> dict[str, Any]:
    """The row with what this process knows of the file: its name in the corpus, and what is said in it."""
    rate, notes = None, list(row["notes"] or [])
    if item.reference is not None and row["text"] is not None:
        try:
            rate = wer(item.reference, row["text"], row["language"] or "en")
        except TextError as error:
            notes.append(error.what)
    return {**row, "notes": notes, "path": row_path(item.path), "reference": item.reference, "wer": rate}


def describe_death(settings: Settings) -> dict[str, Any]:
    """The row of a file over which a worker died, and those who tried it again."""
    what = f"The worker's process ended over this file, in {ROUNDS} rounds: too little memory, or a decoder's fault."
    empty = dict.fromkeys(schema().names)
    return {**empty, "error": what, "error_kind": DIED, "notes": [], "model": settings.model,
            "options": settings.digest}  # fmt: skip
