"""Exercises: a learner's function compared with a reference, with a hint that fits the mistake."""

from __future__ import annotations

import copy
import datetime
import dis
import json
import logging
import numbers
import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from labsupport.base.errors import CourseError, printable
from labsupport.base.paths import NOTEBOOKS, atomic_write, lab_dir, using_folder
from labsupport.base.records import read_json

log = logging.getLogger(__name__)
SOLUTIONS = NOTEBOOKS / "solutions"
STUB_OPERATIONS = {"RESUME", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "NOP"}


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer, and the hint for whoever gives it."""

    function: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise, defined in `notebooks/solutions/NN_name.py`, in that file's list `EXERCISES`.

    Args:
        id: notebook number and exercise number, "1.2"; without the leading zero.
        title: what the learner writes, briefly.
        hint: the general hint, shown with an empty or an unrecognised answer.
        solution: the reference; it has the name and the parameters of the notebook's stub.
        variant: a second correct way, which the check must accept too.
        cases: the argument tuples to call with. Each function gets copies of its own.
        mistakes: at least three wrong answers, each with its hint.
        rtol, atol: how far floating-point numbers may differ, as in `numpy.isclose`.
    """

    id: str
    title: str
    hint: str
    solution: Callable
    variant: Callable
    cases: Sequence[tuple]
    mistakes: Sequence[Mistake]
    rtol: float = 1e-5
    atol: float = 1e-6


@dataclass(frozen=True)
class Assessment:
    """How one answer compares: `status` is "not attempted", "wrong" or "right"; `message` is for the learner."""

    status: str
    message: str


def check(exercise_id: str, answer: Callable, *, solutions: Path = SOLUTIONS) -> None:
    """Prints how `answer` compares with the reference, and records a right one. A wrong one raises nothing.

    Raises:
        CourseError: when there is no such exercise.
    """
    assessment = assess(find(exercise_id, solutions), answer)
    if assessment.status == "right":
        _record(exercise_id)
    print(f"{exercise_id}  {assessment.message}")


def assess(exercise: Exercise, answer: Callable) -> Assessment:
    """Calls `answer` with every case and compares its results with the solution's; records nothing."""
    if not callable(answer):
        return Assessment("wrong", f"not yet: a function is expected, this is {describe(answer)}.")
    expected, got = outputs(exercise.solution, exercise.cases), outputs(answer, exercise.cases)
    if _is_stub(answer, got):
        return Assessment("not attempted", f"not attempted yet. Hint: {exercise.hint}")
    if found := _first_difference(exercise, expected, got):
        return Assessment("wrong", f"not yet: {found}\n     Hint: {_fitting_hint(exercise, got)}")
    return Assessment("right", "right. Well done!")


def find(exercise_id: str, solutions: Path = SOLUTIONS) -> Exercise:
    """The exercise with this id.

    Raises:
        CourseError: when there is none.
    """
    number = exercise_id.split(".")[0]
    for path in solutions.glob(f"{number:0>2}_*.py"):
        for exercise in load(path):
            if exercise.id == exercise_id:
                return exercise
    raise CourseError(f"There is no exercise {exercise_id!r}.", where=solutions, hint="check the number in the title")


def load(path: Path) -> list[Exercise]:
    """The exercises that the solutions file at `path` defines."""
    return runpy.run_path(str(path), run_name=f"solutions_{path.stem}")["EXERCISES"]


# --- calling and comparing --------------------------------------------------------------------------------------------


def outputs(function: Callable, cases: Sequence[tuple]) -> list[object]:
    """What `function` gives for each case; where it raises, the exception stands in place of the value."""
    return [_output(function, copy.deepcopy(case)) for case in cases]


def _output(function: Callable, case: tuple) -> object:
    try:
        return function(*case)
    except Exception as error:  # noqa: BLE001 - whatever a learner's code raises is reported, never passed on
        return error


def _is_stub(answer: Callable, got: Sequence[object]) -> bool:
    if all(isinstance(value, NotImplementedError) for value in got):
        return True
    code = getattr(answer, "__code__", None)
    empty = code is not None and {step.opname for step in dis.get_instructions(code)} <= STUB_OPERATIONS
    return empty and all(value is None for value in got)


def _first_difference(exercise: Exercise, expected: Sequence[object], got: Sequence[object]) -> str | None:
    for case, right, value in zip(exercise.cases, expected, got, strict=True):
        if text := difference(right, value, exercise.rtol, exercise.atol):
            return f"{exercise.solution.__name__}({', '.join(map(describe, case))}) {text}"
    return None


def _fitting_hint(exercise: Exercise, got: Sequence[object]) -> str:
    for mistake in exercise.mistakes:
        if not _first_difference(exercise, outputs(mistake.function, exercise.cases), got):
            return mistake.hint
    return exercise.hint


def difference(expected: Any, got: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str | None:
    """A description of how `got` differs from `expected`; None when they are equal within the tolerances.

    Arrays of NumPy, torch and MindSpore, numbers, texts, lists, tuples and dictionaries are compared inside.
    """
    if isinstance(got, Exception):
        first_line = str(got).partition("\n")[0]
        return None if type(got) is type(expected) else f"raises {type(got).__name__}: {first_line}"
    if got is None and expected is not None:
        return "gives None: is a `return` missing?"
    if _is_array(expected):
        return _array_difference(expected, got, rtol, atol)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)):
        if len(expected) != len(got):
            return f"gives {len(got)} items; {len(expected)} are expected"
        return _first_inside(dict(enumerate(expected)), dict(enumerate(got)), rtol, atol)
    if isinstance(expected, dict) and isinstance(got, dict):
        if set(expected) != set(got):
            return f"gives the keys {list(got)}; {list(expected)} are expected"
        return _first_inside(expected, got, rtol, atol)
    if _is_number(expected) and _is_number(got):
        same = np.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        same = type(expected) is type(got) and expected == got
    return None if same else _instead(expected, got)


def _array_difference(expected: Any, got: Any, rtol: float, atol: float) -> str | None:
    if not _is_array(got) or _library(got) != _library(expected):
        return _instead(expected, got)
    if tuple(expected.shape) != tuple(got.shape):
        return f"has shape {tuple(got.shape)}; {tuple(expected.shape)} is expected"
    if expected.dtype != got.dtype:
        return f"has dtype {got.dtype}; {expected.dtype} is expected"
    right, value = _as_numpy(expected), _as_numpy(got)
    wrong = np.argwhere(~np.isclose(value, right, rtol=rtol, atol=atol, equal_nan=True))
    if not len(wrong):
        return None
    place = tuple(int(index) for index in wrong[0])
    first = f"{value[place]:.6g} where {right[place]:.6g} is expected"
    return f"has {first}, first at index {list(place)}; {len(wrong)} of {value.size} values differ"


def _first_inside(expected: dict, got: dict, rtol: float, atol: float) -> str | None:
    for place, right in expected.items():
        if text := difference(right, got[place], rtol, atol):
            return f"at [{place!r}] {text}"
    return None


def _instead(expected: object, got: object) -> str:
    return f"gives {describe(got)}; {describe(expected)} is expected"


def describe(value: Any) -> str:
    """A value in short: an array by library, dtype and shape, anything else by its shortened repr."""
    if _is_array(value):
        return f"{_library(value)} {str(value.dtype).rpartition('.')[2].lower()} array of shape {tuple(value.shape)}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, numbers.Number)


def _library(array: object) -> str:
    return type(array).__module__.partition(".")[0]


def _as_numpy(array: Any):
    """The values as a NumPy array; half precision of torch is widened, because NumPy has no bfloat16."""
    if _library(array) == "torch":
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()
    return array.asnumpy() if hasattr(array, "asnumpy") else array


# --- progress ---------------------------------------------------------------------------------------------------------


def solved() -> dict[str, str]:
    """Ids of the solved exercises, each with the date on which it was first solved.

    Entries of another form, which another version of the lab may have written, are left out with a warning.

    Raises:
        CourseError: when the progress file is damaged.
    """
    stored = _stored_progress()
    found = {name: date for name, date in stored.items() if re.fullmatch(r"\d+\.\d+", name) and isinstance(date, str)}
    if others := sorted(set(stored) - set(found)):
        names = printable(", ".join(others))
        log.warning("%s: %d entries are of another version of the lab: %.200s", _path(), len(others), names)
    return found


def _path() -> Path:
    return lab_dir() / "progress.json"


def _stored_progress() -> dict:
    """The file's entries, of whatever form; none where there is no file."""
    try:
        with using_folder(_path().parent, "LAB_HOME"):
            stored = read_json(_path()) if _path().exists() else {}
        if not isinstance(stored, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        hint = "move the file away; progress starts anew"
        raise CourseError(f"The record of your progress is damaged: {error}.", where=_path(), hint=hint) from error
    return stored


def progress(solutions: Path = SOLUTIONS) -> dict[str, list[tuple[Exercise, bool]]]:
    """Per notebook name, in order: its exercises, each with whether it is solved."""
    done = solved()
    return {
        path.stem: [(exercise, exercise.id in done) for exercise in load(path)]
        for path in sorted(solutions.glob("[0-9][0-9]_*.py"))
    }


def _record(exercise_id: str) -> None:
    path = _path()
    with using_folder(path.parent, "LAB_HOME"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):  # two notebooks may be open at once
            entries = {exercise_id: datetime.date.today().isoformat()} | _stored_progress()
            with atomic_write(path) as part:
                part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
