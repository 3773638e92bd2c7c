"""A learner's own copy of the notebooks: JupyterLab opens it, and the course's new pages are merged into it.

The pages of the repository stay as they are committed. Three versions of a page meet in an update: the one that was
copied, the learner's, and the new one. Cells are matched by their ids, as nbdime does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, ROOT, atomic_write, lab_dir, using_folder
from labsupport.course import notebook as notebook_format
from labsupport.course import runner

Cells = list[dict]


@dataclass(frozen=True)
class Update:
    """What became of one page: "new", "updated", or "merged", beside which cells of both sides were changed.

    conflicts: ids of the cells that the learner and the course both changed; the learner's stay.
    """

    name: str
    status: str
    conflicts: tuple[str, ...] = ()


def folder() -> Path:
    """Where the copy is: `my_notebooks` beside `notebooks`, whose links to `data` hold; or in `LAB_HOME`, if set."""
    return lab_dir() / "notebooks" if os.environ.get("LAB_HOME") else ROOT / "my_notebooks"


def _origin(name: str) -> Path:
    """The version of a page that was copied last."""
    return lab_dir() / "origin" / f"{name}.ipynb"


def update(notebooks: Path = NOTEBOOKS) -> list[Update]:
    """Copies the pages that are not there yet, and merges what the course changed into the others.

    Raises:
        CourseError: a page of the copy is no notebook any more; the other pages are brought up to date first.
        FolderError: the folder cannot be written to.
    """
    found: list[Update] = []
    damaged = None
    with using_folder(folder(), "LAB_HOME"):
        folder().mkdir(parents=True, exist_ok=True)
        _origin("").parent.mkdir(parents=True, exist_ok=True)
        if folder().parent != ROOT:
            link_course(folder().parent)
        for path in runner.find_notebooks(folder=notebooks):
            try:
                found += update_page(path)
            except CourseError as error:
                damaged = error
    if damaged:
        hint = "Move it away: then the next update makes a new copy. The other pages are up to date."
        raise CourseError(damaged.what, where=damaged.where, hint=hint)
    return found


def update_page(path: Path) -> Iterator[Update]:
    """The change of one page, if there is one."""
    mine, origin, text = folder() / path.name, _origin(path.stem), path.read_text(encoding="utf-8")
    if not mine.exists():
        write(mine, text)
        write(origin, text)
        yield Update(path.stem, "new")
    elif not origin.exists() or origin.read_text(encoding="utf-8") != text:
        base = runner.read(origin) if origin.exists() else {"cells": []}
        new = runner.read(path)
        own = notebook_format.canonical(runner.read(mine))["cells"]  # each with an id, whoever saved it
        merged, conflicts = merge(base["cells"], own, new["cells"])
        changed = sources(own) != sources(base["cells"])
        write(mine, notebook_format.dump({**new, "cells": merged}))
        write(origin, text)
        yield Update(path.stem, "merged" if changed else "updated", tuple(conflicts))


def write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def link_course(place: Path) -> None:
    """What the pages link to, `../data` and `../README.md`: links to it, or copies where the system allows none."""
    for source in (ROOT / "data", ROOT / "README.md"):
        link = place / source.name
        if not link.exists():
            try:
                link.symlink_to(source, target_is_directory=source.is_dir())
            except OSError:
                shutil.copytree(source, link) if source.is_dir() else shutil.copy(source, link)


# --- merging ----------------------------------------------------------------------------------------------------------


def sources(cells: Cells) -> dict[str, str]:
    """Id -> text of each cell."""
    return {cell["id"]: notebook_format.joined(cell["source"]) for cell in cells}


def merge(base: Cells, mine: Cells, new: Cells) -> tuple[Cells, list[str]]:
    """The new page with the learner's changes in it, and the ids of the cells that both changed.

    A cell that the learner left as it was becomes the new one, or goes where the course took it out. One that the
    learner changed stays, and one that the learner added stays behind the cell that it followed. One that the learner
    deleted comes back only where the course changed it.
    """
    was, now, wanted = sources(base), sources(mine), sources(new)
    own = {cell["id"]: cell for cell in mine}
    conflicts = [name for name in wanted if name in now and len({was.get(name), now[name], wanted[name]}) == 3]
    result = []
    for cell in new:
        name = cell["id"]
        deleted = name in was and name not in now
        if deleted and was[name] == wanted[name]:
            continue
        untouched = name not in now or now[name] == was.get(name)
        result.append(cell if untouched and was.get(name) != wanted[name] else own.get(name, cell))
    return insert_added(result, mine, was, wanted), conflicts


def insert_added(result: Cells, mine: Cells, was: dict[str, str], wanted: dict[str, str]) -> Cells:
    """With the learner's own cells, and those that the learner changed and the course took out, each in its place."""
    before = None
    for cell in mine:
        name, text = cell["id"], notebook_format.joined(cell["source"])
        if name not in wanted and was.get(name) != text:
            places = [place for place, each in enumerate(result, 1) if each["id"] == before]
            result.insert(places[0] if places else 0 if before is None else len(result), cell)
        if any(each["id"] == name for each in result):
            before = name
    return result
