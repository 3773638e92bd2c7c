"""How each notebook went, stored so that an interrupted run can continue and the report can show it.

Records that another version of the lab wrote are read as far as they can be, and else set aside with a warning.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
import os
import re
import secrets
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from labsupport.base.errors import CourseError
from labsupport.base.masking import mask_all
from labsupport.base.paths import NOTEBOOKS, PAGE, ROOT, atomic_write, lab_dir, using_folder
from labsupport.base.records import from_fields, read_json
from labsupport.course import notebook as notebook_format

log = logging.getLogger(__name__)
STATUSES = ("passed", "failed", "skipped")

# First match wins: a missing module inside a failed download is a network failure, an allocation that failed inside
# an assertion is a memory failure.
FAILURE_KINDS = (
    ("timeout", r"CellTimeoutError|A cell timed out|took longer than"),
    ("memory", r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory|Unable to allocate|bad_alloc"),
    ("network", r"ConnectionError|ConnectTimeout|ReadTimeout|MaxRetryError|NameResolutionError|SSLError|ProxyError"),
    ("network", r"CheckpointError|LocalEntryNotFoundError|URLError|failure in name resolution|Network is unreachable"),
    ("dependency", r"ModuleNotFoundError|ImportError|DLL load failed|cannot open shared object file|VersionConflict"),
    ("assertion", r"AssertionError"),
    ("crash", r"DeadKernelError|Kernel died|Segmentation fault"),
)


@dataclass(frozen=True)
class Failure:
    """Why a notebook failed: `kind` is one of FAILURE_KINDS' or "other"; `cell` counts code cells from 1."""

    kind: str
    message: str
    cell: int | None = None


@dataclass(frozen=True)
class NotebookResult:
    """How one notebook went. `status` is "passed", "failed" or "skipped"; a skipped one has its `reason`."""

    notebook: str
    backend: str
    status: str
    run: str
    seconds: float = 0.0
    cells: int = 0
    reason: str | None = None
    skips: list[str] = field(default_factory=list)
    failure: Failure | None = None
    fingerprint: str = ""
    date: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Summary:
    """A whole run: its results in order, and the names of those taken over from the run that was interrupted."""

    results: list[NotebookResult]
    reused: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(result.status != "failed" for result in self.results)

    def count(self, status: str) -> int:
        """How many notebooks have this status."""
        return sum(result.status == status for result in self.results)


def classify(log: str) -> str:
    """The kind of failure that an error message or a log shows, by FAILURE_KINDS; "other" when none fits."""
    return next((kind for kind, pattern in FAILURE_KINDS if re.search(pattern, log)), "other")


def runs_dir() -> Path:
    """The folder of the last result and the executed copy of each notebook."""
    return lab_dir() / "runs"


def last_results() -> list[NotebookResult]:
    """The last result of each notebook and backend, by name. A damaged record is left out, and named in a warning.

    Raises:
        FolderError: when the folder cannot be looked into.
    """
    with using_folder(runs_dir(), "LAB_HOME"):
        found = [_read_result(path) for path in sorted(runs_dir().glob(f"{PAGE}.json"))]
    return [result for result in found if result]


def compute_fingerprint(notebook: dict, backend: str, parameters: dict[str, object]) -> str:
    """Changes with whatever may change how a notebook goes: its source, the parameters, labsupport, the versions."""
    cells = [(cell["cell_type"], notebook_format.joined(cell["source"])) for cell in notebook["cells"]]
    digest = hashlib.sha256(json.dumps([cells, backend, parameters, sys.version], sort_keys=True).encode())
    sources = sorted((ROOT / "labsupport").rglob("*.py")) + sorted(NOTEBOOKS.glob("solutions/*.py"))
    for path in [*sources, ROOT / "uv.lock"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def only_run() -> AbstractContextManager:
    """Takes the lock of the runs folder, and holds it for a `with` block.

    Raises:
        CourseError: at once, when another process holds it.
        FolderError: when the folder cannot be written to.
    """
    with using_folder(runs_dir(), "LAB_HOME"):
        runs_dir().mkdir(parents=True, exist_ok=True)
        try:
            return filelock.FileLock(runs_dir() / ".lock", timeout=0).acquire()
        except filelock.Timeout as error:
            raise CourseError(
                "Another `lab run` is at work.", where=runs_dir(), hint="wait until it is done"
            ) from error


def begin(fresh: bool) -> str:
    """The id of the interrupted run that this one continues, else a new one; also where the record cannot be read."""
    path = runs_dir() / "run.json"
    try:
        earlier = _read_json(path) if os.path.exists(path) and not fresh else None
    except CourseError as error:
        log.warning("%s", error)
        earlier = None
    unfinished = earlier.get("id") if isinstance(earlier, dict) and earlier.get("finished") is False else None
    run_id = unfinished if isinstance(unfinished, str) else secrets.token_hex(4)
    _write_json(path, {"id": run_id, "finished": False})
    return run_id


def finish(run_id: str) -> None:
    """Marks the run as complete: the next one starts afresh."""
    _write_json(runs_dir() / "run.json", {"id": run_id, "finished": True})


def passed_before(name: str, backend: str, run_id: str, fingerprint: str) -> NotebookResult | None:
    """The result of this notebook in this run, if it passed and nothing has changed since; None otherwise."""
    path = _result_path(name, backend)
    earlier = _read_result(path) if os.path.exists(path) else None  # a damaged one is mended by running it again
    same = earlier and (earlier.run, earlier.fingerprint, earlier.status) == (run_id, fingerprint, "passed")
    return earlier if same else None


def store(result: NotebookResult) -> NotebookResult:
    """Writes the result down, without secrets, and hands it back."""
    clean = mask_all(dataclasses.asdict(result))
    _write_json(_result_path(result.notebook, result.backend), clean)
    return from_fields(NotebookResult, clean)


def _result_path(name: str, backend: str) -> Path:
    return runs_dir() / f"{name}.{backend}.json"


def _read_result(path: Path) -> NotebookResult | None:
    try:
        stored = _read_json(path)
    except CourseError as error:
        log.warning("%s is left out: %s", path, error.what)
        return None
    try:
        result = from_fields(NotebookResult, stored)
        if result.status not in STATUSES:
            raise ValueError(f"its 'status' is {result.status!r}")
    except ValueError as error:
        log.warning("%s is of another version of the lab and is left out: %s.", path, error)
        return None
    return result


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        hint = "delete this folder; the next run fills it again"
        raise CourseError(f"The record of an earlier run is damaged: {error}.", where=path, hint=hint) from error


def _write_json(path: Path, value: dict) -> None:
    with using_folder(path.parent, "LAB_HOME"), atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
