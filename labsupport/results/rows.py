"""Result rows: every number that the course prints about speed or memory, one JSON line each.

Reference rows lie in `data/results/<machine>/`, a learner's own in `.lab/results/<machine>/` (or under `LAB_RESULTS`).
What pytest runs, nbval's notebooks too, is a check and no learner's result: it goes to `.lab/checks/<machine>/`.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from labsupport.base import json_lines
from labsupport.base.errors import RowError
from labsupport.base.json_lines import OddLine
from labsupport.base.masking import mask
from labsupport.base.paths import DATA, ROOT, chosen_folder, lab_dir
from labsupport.machine.backend import choose_backend, on_ascend
from labsupport.machine.description import Machine, describe_machine
from labsupport.machine.os_info import asked_threads

REFERENCE = DATA / "results"
OPS = "ops of "  # what a row of an op table begins with
SCHEMA = 3  # of the lines that are written; 1 had no number and no run_id, 2 no load, fast or interval
OTHER = "other"  # the group of rows that no notebook and no benchmark recorded
NOISIEST = 0.5  # a spread of more than this part of the value says nothing: measure again
TOO_NOISY = "too noisy to judge, run again"
BUSY = 0.25  # a machine is busy if others use more than this share of its processors
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}(\d{3})?)?\+00:00")
SMALLEST, LARGEST = 1e-12, 1e30  # what a clock can measure, and what anything was ever counted to
CLOCKS_DIFFER = timedelta(hours=1)  # between two machines
AMOUNTS = ("s", "ms", "cycles", "bytes", "MB", "GB", "RTF")  # units of what is never negative


@dataclass(frozen=True)
class Row:
    """One result. Either `value` is a finite number, or `missing` names the hardware that was not there.

    Args:
        what: what was measured; `unit` says in what ("s", "times", "bytes").
        spread: interquartile range of the runs, in `unit`; for a ratio, how far below it its interval reaches.
        machine: slug of `describe_machine()`; `versions` maps packages to theirs.
        peak_bytes: peak memory above the start of the run.
        threads: what `OMP_NUM_THREADS` asked for; absent where it asked for nothing, which means all cores.
        run_id: what joins the rows of one session, see `run_id()`; absent in rows of schema 1.
        commit: of this repository, "+dirty" when files differed from it; "unknown" outside git.
        date: ISO 8601, UTC.
        claim: id of the article's claim that this result tests.
        load_before, load_during: the share of the processors that others used, as in `load.Load`.
        fast: whether the notebook ran in its fast mode; absent outside of notebooks.
        low, high: the interval of `value`, of a ratio from one session's pairs; see `interval`.
        gain: how many times as fast as the variant `against` of the same session: value, low, high, of the pairs.
        predicted: computed from a model's shape, and not measured.
        sizes: (size, value) pairs that a growth was found from.
        device: "cpu", or the accelerator's framework and name, as "cuda nvidia-titan-rtx"; absent in older rows.

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
    run_id: str | None = None
    load_before: float | None = None
    load_during: float | None = None
    fast: bool | None = None
    low: float | None = None
    high: float | None = None
    gain: tuple[float, float, float] | None = None
    against: str | None = None
    predicted: bool | None = None
    sizes: tuple[tuple[float, float], ...] | None = None
    device: str | None = None

    def __post_init__(self):
        for name in ("what", "unit", "machine", "backend", "date", "commit"):
            check_text(name, getattr(self, name))
        for name in ("model", "clip", "claim", "missing", "note", "run_id", "device", "against"):
            if (text := getattr(self, name)) is not None:
                check_text(name, text)
        for name in ("value", "spread", "runs", "peak_bytes", "threads", "load_before", "load_during", "low", "high"):
            check_number(name, getattr(self, name))
        for name, least in (("runs", 1), ("peak_bytes", 0), ("threads", 1)):
            check_count(name, getattr(self, name), least)
        if self.spread is not None and self.spread < 0:
            raise RowError("A row's spread must not be negative.", where=self.spread)
        for name in ("fast", "predicted"):
            if getattr(self, name) not in (None, True, False):
                raise RowError(f"A row's {name} must be true or false.", where=getattr(self, name))
        check_interval(self.value, self.low, self.high)
        object.__setattr__(self, "gain", check_numbers("gain", self.gain, 3))
        if self.gain:
            check_interval(*self.gain)
        if self.sizes is not None:
            if not isinstance(self.sizes, list | tuple):
                raise RowError("A row's sizes must be pairs of numbers.", where=f"{self.sizes!r:.60}")
            object.__setattr__(self, "sizes", tuple(check_numbers("sizes", pair, 2) for pair in self.sizes))
        if not isinstance(self.versions, dict):
            raise RowError("A row's versions must map packages to versions.", where=self.versions)
        for text in (*self.versions, *self.versions.values()):
            check_text("versions", text)
        check_date(self.date)
        if (self.value is None) != bool(self.missing):
            raise RowError("A row has either a value, or the hardware that was missing.", where=self.what)

    @property
    def number(self) -> float:
        """The value of a row that has one; RowError where it names missing hardware instead."""
        if self.value is None:
            raise RowError(f"Nothing was measured: {self.missing} was missing.", where=self.what)
        return self.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two ends between which the value lies: stored, or in older rows by the spread; None where neither is."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if self.value is None or self.spread is None:
            return None
        return self.value - self.spread, self.value + self.spread

    def find_oddity(self) -> str | None:
        """Why this can be no result, if so: its date or its figure."""
        return self.find_odd_date() or self.find_odd_figure()

    def find_odd_date(self) -> str | None:
        """What is wrong with the date, which may be a clock's fault."""
        if datetime.fromisoformat(self.date) - datetime.now(timezone.utc) > CLOCKS_DIFFER:
            return f"its date lies in the future, or this machine's clock is behind: {self.date}"
        return None

    def find_odd_figure(self) -> str | None:
        """What is wrong with the figure: no time, rate or ratio is zero, and nothing was ever counted beyond bounds."""
        if any(abs(number or 0) > LARGEST for number in (self.value, self.spread, self.peak_bytes, self.runs)):
            return "a figure is larger than anything that was ever measured"
        least = SMALLEST if self.is_divided() else 0 if self.unit in AMOUNTS else -LARGEST
        if self.value is not None and self.value < least:
            return f"its figure is zero or negative: {self.value:g} {self.unit}"
        return None

    def is_too_noisy(self) -> bool:
        """Whether the spread, or half the interval of a time, a ratio or a gain, is more than NOISIEST of the value.

        Such a row gives no verdict and no gain.
        """
        if self.value is None:
            return False
        wide = self.is_divided() and self.interval is not None and is_too_wide(self.value, *self.interval)
        wide = wide or (self.gain is not None and is_too_wide(*self.gain))
        return wide or (self.spread or 0.0) > NOISIEST * abs(self.value)

    def is_busy(self) -> bool:
        """Whether other processes used more than BUSY of the processors, before or during the measurement."""
        return max(self.load_before or 0.0, self.load_during or 0.0) > BUSY

    def is_divided(self) -> bool:
        """Whether ratios are made of such rows: times, rates and ratios, but not the parts of an op table."""
        ratio = self.unit in ("s", "cycles", "RTF") or self.unit.split(" ")[0] == "times" or self.unit.endswith("/s")
        return ratio and not self.what.startswith(OPS)


def is_too_wide(value: float, low: float, high: float) -> bool:
    """Whether half of the interval is more than NOISIEST of the value in it."""
    return (high - low) / 2 > NOISIEST * abs(value)


def check_text(name: str, text: object) -> None:
    """Raises RowError unless `text` is text that a file can hold: JSON can spell half a character."""
    if not isinstance(text, str):
        raise RowError(f"A row's {name} must be text.", where=text)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError(f"A row's {name} must be Unicode.", where=ascii(text))


def check_date(date: str) -> None:
    """Raises RowError unless it is in UTC, in the one form that is sorted as text."""
    try:
        if DATE.fullmatch(date):
            datetime.fromisoformat(date)
            return
    except ValueError:  # a 30th of February
        pass
    raise RowError("A row's date must be in UTC, as 2026-01-31T23:59:59+00:00.", where=date)


def check_number(name: str, number: object) -> None:
    """Raises RowError unless `number` is None or a finite number that a float can hold."""
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= sys.float_info.max:
        raise RowError(f"A row's {name} must be a finite number.", where=f"{number!r:.60}")


def check_numbers(name: str, numbers: Any, count: int) -> tuple[float, ...] | None:
    """The numbers as a tuple; RowError unless they are None or `count` finite numbers."""
    if numbers is None:
        return None
    if not isinstance(numbers, list | tuple) or len(numbers) != count or None in numbers:
        raise RowError(f"A row's {name} must be {count} numbers.", where=f"{numbers!r:.60}")
    for number in numbers:
        check_number(name, number)
    return tuple(numbers)


def check_interval(value: float | None, low: float | None, high: float | None) -> None:
    """Raises RowError unless both ends are absent, or low <= value <= high."""
    if (low, high) == (None, None):
        return
    if value is None or low is None or high is None or not low <= value <= high:
        raise RowError("A row's interval must have two ends, with its value between them.", where=(low, value, high))


def check_count(name: str, number: object, least: int) -> None:
    if number is not None and (not isinstance(number, int) or number < least):
        raise RowError(f"A row's {name} must be a whole number, at least {least}.", where=number)


def record(
    what: str, value: float | None, unit: str, *, backend: str | None = None, group: str | None = None, **details: Any
) -> Row:
    """Appends one row to this machine's results and returns it; machine, versions, commit and date are filled in.

    Args:
        backend: the one that gave the number, as in `choose_backend()`.
        group: the file's name, a notebook or a benchmark: this, else `LAB_GROUP` (the runner and `course.sessions` set
            it), else OTHER.
        details: other fields of `Row`: spread, runs, model, clip, peak_bytes, claim, missing, note, load_before,
            load_during, low, high, gain, against, predicted, sizes; `date`, else now.

    Raises:
        RowError: it is no result that a reader would take.
        FolderError: it cannot be written.
    """
    framework = choose_backend(backend)
    machine = describe_machine(framework)
    details = {"date": now(), **details}
    row = Row(
        what=to_plain(what),
        value=to_plain(value),
        unit=unit,
        machine=machine.name,
        backend=framework,
        commit=read_commit(ROOT),
        versions=machine.versions,
        threads=asked_threads(),
        run_id=run_id(),
        fast=fast_mode(),
        device=name_device(machine),
        **{name: to_plain(detail) for name, detail in details.items()},
    )
    if oddity := row.find_oddity():
        raise RowError(f"This is no result: {oddity}.", where=what)
    append_row(row, results_dir() / machine.name / f"{group or os.environ.get('LAB_GROUP') or OTHER}.jsonl")
    return row


def record_ops(topic: str, ops: Iterable[tuple[str, float, str]], unit: str, **details) -> list[Row]:
    """Appends a row for each (name, value, note) of an op table ("ops of TOPIC: NAME"); one date makes them a table."""
    date = now()
    return [record(f"{OPS}{topic}: {name}", value, unit, note=note, date=date, **details) for name, value, note in ops]


def name_device(machine: Machine) -> str:
    """What a row calls the device that it was measured on, see `Row`."""
    if not machine.accelerators:
        return "cpu"
    name = re.sub(r"[^a-z0-9]+", "-", machine.accelerators[0].name.lower()).strip("-")
    return f"{'ascend' if on_ascend() else 'cuda'} {name}"


def now() -> str:
    """The time as a row gives it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def to_plain(value: Any) -> Any:
    """A NumPy or torch scalar as Python's own number, text without secrets; anything else as it is."""
    return value.item() if hasattr(value, "item") else mask(value) if isinstance(value, str) else value


def run_id() -> str:
    """Joins the rows of one session: `LAB_RUN_ID`, which a benchmark gives to its workers, else this process's own."""
    return os.environ.get("LAB_RUN_ID") or own_run_id()


@functools.cache
def own_run_id() -> str:
    return secrets.token_hex(4)


def fast_mode() -> bool | None:
    """The parameter `fast` of the notebook that this process executes; None where it executes none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    fast = shell.user_ns.get("fast") if shell else None
    return fast if isinstance(fast, bool) else None


def results_dir() -> Path:
    """Where this process's results go: `LAB_RESULTS`, else `results` in the learner's own folder; tests': `checks`."""
    return chosen_folder("LAB_RESULTS", lambda: lab_dir() / ("checks" if is_check() else "results"))


def is_check() -> bool:
    """Whether pytest runs this process, or started the kernel that this is."""
    return "PYTEST_CURRENT_TEST" in os.environ or "PYTEST_VERSION" in os.environ


# --- the files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Rows, oldest first, and the lines beside them that are none."""

    rows: list[Row]
    odd: list[OddLine]


def append_row(row: Row, path: Path) -> None:
    """Adds the row as one whole line; processes may append to the same file at once. FolderError where it cannot."""
    content = {key: value for key, value in asdict(row).items() if value is not None}
    json_lines.append(
        path, {"schema": SCHEMA, **content}, "LAB_RESULTS" if os.environ.get("LAB_RESULTS") else "LAB_HOME"
    )


def read_rows(*folders: Path) -> list[Row]:
    """All rows under these folders, oldest first; with none given, the reference rows and this learner's.

    Lines that are no row are left out, and a warning names them.
    """
    reading = scan(*folders)
    json_lines.name_odd(reading.odd, "result row")
    return reading.rows


def read_group(group: str, machine: str) -> list[Row]:
    """The rows of one group and machine, reference and the learner's, oldest first; lines that are none left out."""
    return scan_files(folder / machine / f"{group}.jsonl" for folder in (REFERENCE, results_dir())).rows


def read_file(path: Path) -> list[Row]:
    """The rows of one file, in its order; a warning names the lines that are none."""
    rows, odd = json_lines.read(path, parse_row)
    json_lines.name_odd(odd, "result row")
    return rows


def scan(*folders: Path) -> Reading:
    """As `read_rows`, with what was left out in place of a warning."""
    files, odd = [], []
    for folder in folders or (REFERENCE, results_dir()):
        found, no_files = json_lines.find_files(Path(folder))
        files += found
        odd += no_files
    reading = scan_files(files)
    return Reading(reading.rows, [*odd, *reading.odd])


def scan_by_group(folder: Path) -> tuple[Reading, Reading]:
    """Rows under a folder that a notebook or a benchmark recorded, and those of the group OTHER."""
    files, odd = json_lines.find_files(folder)
    named = scan_files(path for path in files if path.stem != OTHER)
    return Reading(named.rows, [*odd, *named.odd]), scan_files(path for path in files if path.stem == OTHER)


def scan_files(files: Iterable[Path]) -> Reading:
    rows: list[Row] = []
    odd: list[OddLine] = []
    for path in files:
        found, lines = json_lines.read(path, parse_row)
        rows += found
        odd += lines
    return Reading(sorted(rows, key=lambda row: row.date), odd)


def parse_row(content: dict) -> Row:
    """The row of a line's object; RowError if it is none, or of a newer schema."""
    schema = content.pop("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise RowError("Its schema is no number of ours.", where=schema)
    if schema > SCHEMA:
        raise RowError(f"A newer version of the lab wrote it: its schema is {schema}, this one reads up to {SCHEMA}.")
    known = {each.name for each in fields(Row)}
    if surplus := sorted(set(content) - known):
        raise RowError(f"A row has no field {surplus[0]!r}; a newer version of the lab may have.")
    row = Row(**{"value": None, **content})
    if oddity := row.find_oddity():
        raise RowError(oddity[0].upper() + oddity[1:] + ".")
    return row


def read_commit(folder: Path) -> str:
    """The short hash of the commit checked out in `folder`, "+dirty" if files differ from it; "unknown" outside git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=9", "--dirty=+dirty"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository
        return "unknown"
