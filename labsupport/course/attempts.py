"""What a learner has tried and solved, kept in the lab's folder: `progress.json` and `attempts.json`."""

from __future__ import annotations

import datetime
import json
import logging
import re
from collections.abc import Collection
from pathlib import Path

import filelock

from labsupport.base.errors import CourseError, printable
from labsupport.base.paths import atomic_write, lab_dir, using_folder
from labsupport.base.records import read_json

log = logging.getLogger(__name__)


def solved() -> dict[str, str]:
    """Ids of the solved exercises, each with the date on which it was first solved.

    Entries of another form, which another version of the lab may have written, are left out with a warning.

    Raises:
        CourseError: when the progress file is damaged.
    """
    stored = _stored(_solved_path())
    found = {
        name: date for name, date in stored.items() if re.fullmatch(r"\d+[a-z]?\.\d+", name) and isinstance(date, str)
    }
    if others := sorted(set(stored) - set(found)):
        names = printable(", ".join(others))
        log.warning("%s: %d entries are of another version of the lab: %.200s", _solved_path(), len(others), names)
    return found


def record_solved(exercise_id: str) -> None:
    """Notes that the exercise is solved today; the first date stays."""
    today = datetime.date.today().isoformat()
    _change(_solved_path(), lambda entries: {exercise_id: today} | entries)


def reset(exercise_ids: Collection[str]) -> None:
    """Forgets that these exercises were tried and solved."""
    for path in (_solved_path(), _attempts_path()):
        if path.exists():
            _change(path, lambda entries: {name: each for name, each in entries.items() if name not in exercise_ids})


def counts(exercise_id: str) -> tuple[int, int]:
    """How many wrong answers were checked, and how many hints were given."""
    entry = _stored(_attempts_path()).get(exercise_id)
    entry = entry if isinstance(entry, dict) else {}
    wrong, hints = entry.get("wrong"), entry.get("hints")
    return (wrong if isinstance(wrong, int) else 0, hints if isinstance(hints, int) else 0)


def record_wrong(exercise_id: str) -> int:
    """Counts a wrong answer; gives how many there are."""
    return _count(exercise_id, 1, 0)[0]


def record_hint(exercise_id: str) -> int:
    """Counts a hint; gives how many there are."""
    return _count(exercise_id, 0, 1)[1]


def _count(exercise_id: str, wrong: int, hints: int) -> tuple[int, int]:
    def add(entries: dict) -> dict:
        before = counts(exercise_id)
        return entries | {exercise_id: {"wrong": before[0] + wrong, "hints": before[1] + hints}}

    _change(_attempts_path(), add)
    return counts(exercise_id)


def _solved_path() -> Path:
    return lab_dir() / "progress.json"


def _attempts_path() -> Path:
    return lab_dir() / "attempts.json"


def _stored(path: Path) -> dict:
    """The file's entries, of whatever form; none where there is no file."""
    try:
        with using_folder(path.parent, "LAB_HOME"):
            stored = read_json(path) if path.exists() else {}
        if not isinstance(stored, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        hint = "move the file away; progress starts anew"
        raise CourseError(f"The record of your progress is damaged: {error}.", where=path, hint=hint) from error
    return stored


def _change(path: Path, change) -> None:
    with using_folder(path.parent, "LAB_HOME"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):  # two notebooks may be open at once
            entries = change(_stored(path))
            with atomic_write(path) as part:
                part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
