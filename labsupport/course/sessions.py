"""Which notebook a kernel executes, by whom, and how far it came: noted after each of its cells.

`lab run` notes itself how its notebooks went. This is for whatever else executes one: JupyterLab, VS Code, papermill,
nbconvert, and `pytest --nbval`, which is a check. It is an extension of IPython. `labsupport` loads it in every kernel
that imports it; a kernel that the lab starts has it from the start.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labsupport.base.errors import FolderError
from labsupport.base.paths import NOTEBOOKS, PAGE, atomic_write, lab_dir, using_folder
from labsupport.base.records import from_fields, read_json
from labsupport.course import notebook as notebook_format
from labsupport.machine.backend import loaded_framework
from labsupport.results.rows import is_check

log = logging.getLogger(__name__)
NBVAL = "pytest --nbval"
# What the command of a kernel's parent, or of its parent, may be called: pattern -> name.
PROGRAMS = {"papermill": "papermill", "nbconvert": "nbconvert", "jupyter-?lab": "JupyterLab"}


@dataclass(frozen=True)
class Session:
    """How far one kernel came in a notebook.

    Args:
        where: "JupyterLab", "VS Code", "papermill", "nbconvert", NBVAL or "another program".
        cells: code cells that ran to their end, of `total`; one that failed when it last ran is not among them.
        date: of the last cell, ISO 8601 with the offset from UTC.
    """

    notebook: str
    where: str
    cells: int
    total: int
    date: str
    backend: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every code cell ran to its end."""
        return self.cells >= self.total

    @property
    def is_check(self) -> bool:
        """Whether a test executed it, not a learner."""
        return self.where == NBVAL

    def __str__(self) -> str:
        what = "checked by" if self.is_check else "run by" if self.where in ("papermill", "nbconvert") else "run in"
        what = "run by" if self.where == "another program" else what
        cells = "" if self.is_whole else f"{self.cells} of {self.total} code cells "
        return f"{cells}{what} {self.where} on {self.date[:10]}"


def sessions_dir() -> Path:
    """The folder of the sessions, one file for each notebook and program."""
    return lab_dir() / "sessions"


def last_sessions() -> list[Session]:
    """What is stored, by notebook and program; a record that cannot be read is left out with a warning.

    Raises:
        FolderError: when the folder cannot be looked into.
    """
    with using_folder(sessions_dir(), "LAB_HOME"):
        found = [read_session(path) for path in sorted(sessions_dir().glob(f"{PAGE}.json"))]
    return [session for session in found if session]


def read_session(path: Path) -> Session | None:
    try:
        return from_fields(Session, read_json(path))
    except (OSError, ValueError) as error:
        log.warning("%s is no record of a session and is left out: %s.", path, error)
        return None


def store(session: Session, before: Session | None = None) -> None:
    """Writes the session down, unless another one of this notebook and program came further.

    Args:
        before: what the same kernel stored last, which is no other session.

    Raises:
        FolderError: it cannot be written.
    """
    program = re.sub(r"\W+", "-", session.where.lower())
    path = sessions_dir() / f"{session.notebook}.{program}.json"
    earlier = read_session(path) if path.exists() else None
    if earlier and earlier != before and earlier.total == session.total and earlier.cells > session.cells:
        return
    with using_folder(path.parent, "LAB_HOME"), atomic_write(path) as part:
        part.write_text(json.dumps(dataclasses.asdict(session), indent=1) + "\n", encoding="utf-8")


# --- in the kernel ----------------------------------------------------------------------------------------------------


def load_ipython_extension(shell: Any) -> None:
    """Notes from now on what this kernel executes; not under `lab run`, which set LAB_GROUP, and notes it itself."""
    if not os.environ.get("LAB_GROUP"):
        shell.events.register("post_run_cell", Watch(shell).note)


@dataclass
class Watch:
    """One kernel's notebook, as soon as it is known, and the cells of it that ran to their end."""

    shell: Any
    notebook: str = ""
    sources: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    where: str = ""
    last: Session | None = None

    def note(self, result: Any) -> None:
        """After a cell: stores the session. A folder that takes nothing is named once, in the log, and then left."""
        if not self.notebook and not self.find_notebook():
            return
        number = self.find_cell(result.info)
        if number is not None:
            (self.done.add if result.success else self.done.discard)(number)
        date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        session = Session(self.notebook, self.where, len(self.done), len(self.sources), date, loaded_framework() or "")
        try:
            store(session, self.last)
            self.last = session
        except FolderError as error:
            log.warning("%s", error)
            self.shell.events.unregister("post_run_cell", self.note)

    def find_notebook(self) -> bool:
        """Whether it is known which notebook this is; then rows go under its name."""
        executed = [source.strip() for source in self.shell.user_ns.get("In", [])]
        notebook = name_from_surroundings(self.shell) or name_from_cells(executed)
        if not notebook:
            return False
        cells = notebook_format.code_cells(read_notebook(notebook))
        self.notebook, self.where = notebook, find_program(self.shell)
        self.sources = [notebook_format.joined(cell["source"]).strip() for cell in cells]
        self.ids = [cell.get("id", "") for cell in cells]
        self.done = {self.sources.index(source) for source in executed[:-1] if source in self.sources}
        # The first cell holds the parameters, which a reader changes; it may have run before this was loaded.
        self.done |= {n for n, cell in enumerate(cells) if "parameters" in notebook_format.tags(cell)}
        os.environ["LAB_GROUP"] = notebook
        return True

    def find_cell(self, info: Any) -> int | None:
        """The number of the cell: by its id, for a reader may have changed its text, else by its text."""
        if (cell_id := getattr(info, "cell_id", None)) in self.ids:
            return self.ids.index(cell_id)
        source = info.raw_cell.strip()
        return self.sources.index(source) if source in self.sources else None


def name_from_surroundings(shell: Any) -> str | None:
    """The course's notebook that JupyterLab, VS Code or pytest says it is; None where none of them says so."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    named = (shell.user_ns.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME"), test)
    stems = [Path(name).stem for name in named if name]
    return next((stem for stem in stems if (NOTEBOOKS / f"{stem}.ipynb").is_file()), None)


def name_from_cells(executed: list[str]) -> str | None:
    """The one notebook of the course that holds the most of these cells' texts; None while there are two."""
    found = {path.stem: count_known(path.stem, executed) for path in NOTEBOOKS.glob(f"{PAGE}.ipynb")}
    most = max(found.values(), default=0)
    best = [name for name, count in found.items() if count == most]
    return best[0] if most and len(best) == 1 else None


def count_known(name: str, executed: list[str]) -> int:
    cells = notebook_format.code_cells(read_notebook(name))
    known = {notebook_format.joined(cell["source"]).strip() for cell in cells}
    return len(known.intersection(executed))


def read_notebook(name: str) -> dict:
    return notebook_format.parse((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def find_program(shell: Any) -> str:
    """What executes this kernel's cells: the nearest of its parents that is known."""
    if is_check():
        return NBVAL
    if "__vsc_ipynb_file__" in shell.user_ns:
        return "VS Code"
    for name in parents():
        for pattern, program in PROGRAMS.items():
            if re.search(pattern, name):
                return program
    return "JupyterLab" if os.environ.get("JPY_SESSION_NAME") else "another program"


def parents() -> Iterator[str]:
    """The names of programs and modules in the commands of this process's parents, the nearest first."""
    import psutil

    for process in psutil.Process().parents():
        try:
            yield from (Path(part).name for part in process.cmdline()[:5])
        except psutil.Error:  # another user's, or one that has ended
            continue
