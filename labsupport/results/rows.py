"""Result rows: every number that the course prints about speed or memory, one JSON line each.

Reference rows lie in `data/results/<machine>/`, a learner's own in `.lab/results/<machine>/` (or under `LAB_RESULTS`).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from labsupport.base.errors import RowError
from labsupport.base.paths import DATA, ROOT, lab_dir
from labsupport.machine.backend import choose_backend
from labsupport.machine.description import describe_machine
from labsupport.machine.os_info import asked_threads

REFERENCE = DATA / "results"
OPS = "ops of "  # what a row of an op table begins with


@dataclass(frozen=True)
class Row:
    """One result. Either `value` is a finite number, or `missing` names the hardware that was not there.

    Args:
        what: what was measured; `unit` says in what ("s", "times", "bytes").
        spread: interquartile range of the runs, in `unit`; for a ratio, how far below it its interval reaches.
        machine: slug of `describe_machine()`; `versions` maps packages to theirs.
        peak_bytes: peak memory above the start of the run.
        threads: what `OMP_NUM_THREADS` asked for; absent where it asked for nothing, which means all cores.
        commit: of this repository, "+dirty" when files differed from it; "unknown" outside git.
        date: ISO 8601, UTC.
        claim: id of the article's claim that this result tests.

    RowError where a field has the wrong type, a number is not finite, or both or neither of value and missing are set.
    """

    what: str
    value: float | None
    unit: str
    machine: str
    backend: str
    date: str
    commit: str
    versions: dict[str, str] = field(default_factory=dict)
    spread: float | None = None
    runs: int | None = None
    model: str | None = None
    clip: str | None = None
    peak_bytes: int | None = None
    threads: int | None = None
    claim: str | None = None
    missing: str | None = None
    note: str | None = None

    def __post_init__(self):
        for name in ("what", "unit", "machine", "backend", "date", "commit"):
            if not isinstance(getattr(self, name), str):
                raise RowError(f"A row's {name} must be text.", where=getattr(self, name))
        for name in ("model", "clip", "claim", "missing", "note"):
            if not isinstance(getattr(self, name), str | None):
                raise RowError(f"A row's {name} must be text or absent.", where=getattr(self, name))
        for name in ("value", "spread", "runs", "peak_bytes", "threads"):
            check_number(name, getattr(self, name))
        if not isinstance(self.versions, dict):
            raise RowError("A row's versions must map packages to versions.", where=self.versions)
        if datetime.fromisoformat(self.date).utcoffset() != timedelta(0):
            raise RowError("A row's date must be in UTC.", where=self.date)
        if (self.value is None) != bool(self.missing):
            raise RowError("A row has either a value, or the hardware that was missing.", where=self.what)

    @property
    def number(self) -> float:
        """The value of a row that has one; RowError where it names missing hardware instead."""
        if self.value is None:
            raise RowError(f"Nothing was measured: {self.missing} was missing.", where=self.what)
        return self.value


def check_number(name: str, number: object) -> None:
    """Raises RowError unless `number` is None or a finite number."""
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise RowError(f"A row's {name} must be a finite number.", where=number)


def record(
    what: str, value: float | None, unit: str, *, backend: str | None = None, group: str | None = None, **details: Any
) -> Row:
    """Appends one row to this machine's results and returns it; machine, versions, commit and date are filled in.

    Args:
        backend: the one that gave the number, as in `choose_backend()`.
        group: the file's name, a notebook or a benchmark: this, else `LAB_GROUP` (the runner sets it), else "other".
        details: other fields of `Row`: spread, runs, model, clip, peak_bytes, claim, missing, note; `date`, else now.
    """
    framework = choose_backend(backend)
    machine = describe_machine(framework)
    details = {"date": now(), **details}
    row = Row(
        what=what,
        value=to_plain(value),
        unit=unit,
        machine=machine.name,
        backend=framework,
        commit=read_commit(ROOT),
        versions=machine.versions,
        threads=asked_threads(),
        **{name: to_plain(detail) for name, detail in details.items()},
    )
    append_row(row, results_dir() / machine.name / f"{group or os.environ.get('LAB_GROUP') or 'other'}.jsonl")
    return row


def record_ops(topic: str, ops: Iterable[tuple[str, float, str]], unit: str, **details) -> list[Row]:
    """Appends a row for each (name, value, note) of an op table ("ops of TOPIC: NAME"); one date makes them a table."""
    date = now()
    return [record(f"{OPS}{topic}: {name}", value, unit, note=note, date=date, **details) for name, value, note in ops]


def now() -> str:
    """The time as a row gives it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def to_plain(value: Any) -> Any:
    """A NumPy or torch scalar as Python's own number; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def results_dir() -> Path:
    """Where this process's results go: `LAB_RESULTS`, else `results` in the learner's own folder."""
    return Path(os.environ.get("LAB_RESULTS") or lab_dir() / "results").expanduser().resolve()


def append_row(row: Row, path: Path) -> None:
    """Adds the row as one whole line, in a single write, so that processes can append to the same file at once."""
    line = json.dumps({key: value for key, value in asdict(row).items() if value is not None}, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        written = file.write(f"{line}\n".encode())
    if written != len(line.encode()) + 1:
        raise RowError("A result could not be written whole.", where=path, hint="Is the disk full?")


def read_rows(*folders: Path) -> list[Row]:
    """All rows under these folders, oldest first; with none given, the reference rows and this learner's."""
    files = [path for folder in folders or (REFERENCE, results_dir()) for path in sorted(Path(folder).rglob("*.jsonl"))]
    return sorted((row for path in files for row in read_file(path)), key=lambda row: row.date)


def read_file(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [parse_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def parse_row(line: str, where: str) -> Row:
    """Raises RowError, with `where`, if the line is not one whole row."""
    try:
        content = json.loads(line)
        if not isinstance(content, dict):
            raise TypeError("it is no JSON object")
        return Row(**{"value": None, **content})
    except (ValueError, TypeError, RowError) as error:
        hint = f"Mend or delete the line. Fields: {', '.join(each.name for each in fields(Row))}."
        raise RowError(f"This line is no result row: {error}", where=where, hint=hint) from error


def read_commit(folder: Path) -> str:
    """The short hash of the commit checked out in `folder`, "+dirty" if files differ from it; "unknown" outside git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=9", "--dirty=+dirty"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository
        return "unknown"
