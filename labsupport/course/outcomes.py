"""How each notebook went, stored so that an interrupted run can continue and the report can show it."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import secrets
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, ROOT, atomic_write, lab_dir
from labsupport.course import notebook as notebook_format

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
    """The last result of each notebook and backend, by name.

    Raises:
        CourseError: when a record cannot be read.
    """
    return [_read_result(path) for path in sorted(runs_dir().glob("[0-9][0-9]_*.json"))]


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
    """
    runs_dir().mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(runs_dir() / ".lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise CourseError("Another `lab run` is at work.", where=runs_dir(), hint="wait until it is done") from error


def begin(fresh: bool) -> str:
    """The id of the interrupted run that this one continues, else a new one."""
    path = runs_dir() / "run.json"
    earlier = _read_json(path) if path.exists() and not fresh else {}
    run_id = earlier["id"] if earlier.get("finished") is False else secrets.token_hex(4)
    _write_json(path, {"id": run_id, "finished": False})
    return run_id


def finish(run_id: str) -> None:
    """Marks the run as complete: the next one starts afresh."""
    _write_json(runs_dir() / "run.json", {"id": run_id, "finished": True})


def passed_before(name: str, backend: str, run_id: str, fingerprint: str) -> NotebookResult | None:
    """The result of this notebook in this run, if it passed and nothing has changed since; None otherwise."""
    path = _result_path(name, backend)
    earlier = _read_result(path) if path.exists() else None
    same = earlier and (earlier.run, earlier.fingerprint, earlier.status) == (run_id, fingerprint, "passed")
    return earlier if same else None


def store(result: NotebookResult) -> NotebookResult:
    """Writes the result down and hands it back."""
    _write_json(_result_path(result.notebook, result.backend), dataclasses.asdict(result))
    return result


def _result_path(name: str, backend: str) -> Path:
    return runs_dir() / f"{name}.{backend}.json"


def _read_result(path: Path) -> NotebookResult:
    fields = _read_json(path)
    failure = fields.pop("failure")
    return NotebookResult(**fields, failure=Failure(**failure) if failure else None)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        hint = "delete this folder; the next run fills it again"
        raise CourseError("The record of an earlier run is damaged.", where=path, hint=hint) from error


def _write_json(path: Path, value: dict) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
