"""The results of a corpus: a folder of parquet parts, each written whole; which files they have, and are done.

One process writes, under a lock. A part gets its name only when it is on the disk, so whatever ends the writer leaves
whole parts behind, and every row in one of them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labsupport.base.cached_folder import hash_file
from labsupport.base.errors import AudioError, ScalingError
from labsupport.base.paths import atomic_write, using_folder
from labsupport.scaling.manifest import Item

PART = re.compile(r"part-(\d{5,})\.parquet")
AUDIO_ERRORS: list[type[AudioError]] = [AudioError, *AudioError.__subclasses__()]
PERMANENT = {kind.__name__ for kind in AUDIO_ERRORS}  # the same file gives them again
STATE = ("path", "bytes", "modified", "sha256", "options", "error_kind", "reference")


def schema():
    """The columns of a part, an Arrow schema; times in seconds."""
    import pyarrow as pa

    quality = [(name, pa.float64()) for name in ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature")]
    word = pa.struct({"start": pa.float64(), "end": pa.float64(), "word": pa.string(), "probability": pa.float64()})
    segment = pa.struct([
        ("id", pa.int64()), ("start", pa.float64()), ("end", pa.float64()), ("text", pa.string()), *quality,
        ("words", pa.list_(word)),
    ])  # fmt: skip
    text, number = pa.string(), pa.float64()
    return pa.schema([
        ("path", text), ("text", text), ("segments", pa.list_(segment)), ("language", text),
        ("language_probability", number), ("duration", number), ("seconds", number), ("error", text),
        ("error_kind", text), ("notes", pa.list_(text)), ("reference", text), ("wer", number), ("model", text),
        ("options", text), ("worker", text), ("bytes", pa.int64()), ("modified", pa.int64()), ("sha256", text),
    ])  # fmt: skip


@dataclass
class Store:
    """The output folder: where each file's row is, and the state of the file that it was made from.

    states: by path: the columns `STATE` of its row, and the part that holds it.
    """

    folder: Path
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    number: int = 0  # of the newest part

    def write(self, rows: Sequence[dict]) -> Path:
        """A new part with these rows, in the place of older ones for the same files."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.drop({row_path(row["path"]) for row in rows} & self.states.keys())  # first: no reader ever finds two
        target = self.folder / f"part-{self.number + 1:05}.parquet"
        table = pa.Table.from_pylist([storable(row) for row in rows], schema())
        with using_folder(self.folder, "--output"), atomic_write(target) as part:
            pq.write_table(table, part)
        self.number += 1
        return target

    def drop(self, paths: set[str]) -> None:
        """Removes the rows of these files; their parts are written anew, or go."""
        import pyarrow.parquet as pq

        for name in sorted({self.states.pop(path)["part"] for path in paths}):
            target = self.folder / name
            table = pq.read_table(target)
            left = table.filter([path not in paths for path in table["path"].to_pylist()])
            with using_folder(self.folder, "--output"):
                if left.num_rows:
                    with atomic_write(target) as part:
                        pq.write_table(left, part)
                else:
                    target.unlink()

    def rows(self, paths: set[str]) -> list[dict]:
        """The whole rows of these files."""
        import pyarrow.parquet as pq

        names = sorted({self.states[path]["part"] for path in paths})
        return [row for name in names for row in pq.read_table(self.folder / name).to_pylist() if row["path"] in paths]


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The output folder, which is made if need be, for this process alone.

    Raises:
        FolderError: it cannot be written to.
        ScalingError: another process writes there, or a part is damaged.
    """
    import filelock

    with using_folder(folder, "--output"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            hint = "Wait for it, or give another --output."
            raise ScalingError("Another process writes to this output.", where=folder, hint=hint) from None
    try:
        for abandoned in folder.glob(".part-*.part"):  # the lock is ours: nobody is writing them
            abandoned.unlink()
        yield read_store(folder)
    finally:
        lock.release()


def read_store(folder: Path) -> Store:
    """What the parts hold. Of two rows for one file, which no run of ours writes, the newer part's counts."""
    import pyarrow.parquet as pq

    store = Store(folder)
    parts = sorted((int(match[1]), match[0]) for name in os.listdir(folder) if (match := PART.fullmatch(name)))
    for number, name in parts:
        try:
            rows = pq.read_table(folder / name, columns=list(STATE)).to_pylist()
        except (OSError, ValueError, KeyError) as error:
            hint = "Remove it: its files are then transcribed again."
            raise ScalingError(f"A part is damaged: {error}", where=folder / name, hint=hint) from error
        store.states |= {row["path"]: {**row, "part": name} for row in rows}
        store.number = number
    return store


@dataclass(frozen=True)
class Plan:
    """What is left to do: `waiting` files; `stale` paths, whose rows no longer hold; `judged_anew` where only the
    reference has changed; `done` paths; those of `others`, done with other options; and rows `beside` the corpus, which
    does not name their files.
    """

    waiting: list[Item]
    stale: set[str]
    judged_anew: list[Item]
    done: set[str]
    others: set[str]
    beside: set[str]


def make_plan(items: Sequence[Item], store: Store, options: str) -> Plan:
    """Compares the corpus with what is done. A row holds if file and options are the same, and trying again is idle."""
    plan = Plan([], set(), [], set(), set(), set(store.states) - {row_path(item.path) for item in items})
    for item in items:
        name = row_path(item.path)
        state = store.states.get(name)
        if state is None:
            plan.waiting.append(item)
        elif state["options"] != options:
            plan.others.add(name)
        elif state["error_kind"] not in {None, *PERMANENT} or not is_same_file(item.file, state):
            plan.stale.add(name)
            plan.waiting.append(item)
        elif state["reference"] != item.reference:
            plan.judged_anew.append(item)
        else:
            plan.done.add(name)
    return plan


def is_same_file(file: str, state: dict[str, Any]) -> bool:
    """Whether a file has the content that a row was made from; it is read only if its time has changed.

    A file that was there and could not be read, or changed meanwhile, has no hash in its row: it may be another now.
    """
    now = describe_file(file)
    if now["bytes"] != state["bytes"]:
        return False
    if now["bytes"] is None:
        return True
    if state["sha256"] is None:
        return False
    if now["modified"] == state["modified"]:
        return True
    return hash_file(Path(file)) == state["sha256"]


def describe_file(file: str) -> dict[str, int | None]:
    """Its size in bytes, and the time of its last change in ns; None where it cannot be looked at."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: a NUL in its name
        return {"bytes": None, "modified": None}
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def row_path(path: str) -> str:
    """A file's name as its row has it: what is no UTF-8 in it is escaped, all else stays as it is."""
    return path.encode("utf-8", "backslashreplace").decode()


def storable(value: Any) -> Any:
    """The same without halves of characters, which broken names have and no parquet file takes."""
    if isinstance(value, str):
        return row_path(value)
    if isinstance(value, dict):
        return {name: storable(each) for name, each in value.items()}
    return [storable(each) for each in value] if isinstance(value, list) else value
