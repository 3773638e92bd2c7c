"""Exercises: a learner's function judged by hidden random cases, and by the model that runs with it.

`check` judges, `hint` helps after the first attempt, `solution` shows one after the third. Cases are drawn anew at each
check; its seed is printed with a wrong answer, and repeats it.
"""

from __future__ import annotations

import ast
import dis
import inspect
import runpy
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, PAGE, require_checkout
from labsupport.course import attempts
from labsupport.course.calls import Call, as_call, call, call_all, find_dependence, find_fault, settled
from labsupport.course.comparison import as_text

SOLUTIONS = NOTEBOOKS / "solutions"
STUB_OPERATIONS = {"RESUME", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "NOP"}
ATTEMPTS_BEFORE_SOLUTION = 3
_recognised: dict[str, str] = {}  # the hint of the known mistake that an exercise's last answer was


class Wrong(Exception):
    """Raised by an exercise's trial: the model does not run as before with the learner's part; the text says how."""


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer, and the hint for whoever gives it."""

    function: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise, defined in `notebooks/solutions/NN_name.py`, in that file's list `EXERCISES`.

    Args:
        id: notebook number and exercise number, "1.2", without the leading zero; "00b.2" where the number has a letter.
        title: what the learner writes, briefly.
        hints: three, from a direction to nearly the answer.
        solution: the reference; it has the name and the parameters of the notebook's stub.
        variants: at least three other correct ways, which the check must accept too.
        mistakes: at least five wrong answers, each with the hint for it.
        draw: one random case, the arguments of a call; None where the model alone judges.
        edges: cases that are always tried, before the random ones.
        draws: how many random cases.
        trial: runs a model with the answer in place of its own part; raises `Wrong`, or gives what was found, for the
            learner ("all 27 tokens are equal, and 3.1 MB less are alive").
        rtol, atol: how far floating-point numbers may differ, as in `numpy.isclose`; by default what their type allows.
        exact_dtype: whether the dtype of an array is part of the task; else its kind (bool, integer, floating-point).

    A solution that changes its arguments says thereby that an answer must do the same; of all others they stay.
    """

    id: str
    title: str
    hints: tuple[str, str, str]
    solution: Callable
    variants: Sequence[Callable]
    mistakes: Sequence[Mistake]
    draw: Callable[[np.random.Generator], tuple] | None = None
    edges: Sequence[tuple] = ()
    draws: int = 20
    trial: Callable[[Callable], str] | None = None
    rtol: float | None = None
    atol: float | None = None
    exact_dtype: bool = False

    def cases(self, seed: int) -> list[tuple]:
        """The edges, then the random cases; each number of a seed always gives the same case."""
        if self.draw is None:
            return list(self.edges)
        return [*self.edges, *(self.draw(np.random.default_rng([seed, number])) for number in range(self.draws))]

    @property
    def tolerances(self) -> dict:
        return {"rtol": self.rtol, "atol": self.atol, "exact_dtype": self.exact_dtype}


@dataclass(frozen=True)
class Assessment:
    """How one answer compares: `status` is "not attempted", "wrong" or "right"; `message` is for the learner.

    `mistake` is the hint of the known mistake that a wrong answer is; None for any other.
    """

    status: str
    message: str
    mistake: str | None = None


# --- what a notebook calls --------------------------------------------------------------------------------------------


def check(exercise_id: str, answer: Callable, *, seed: int | None = None, solutions: Path = SOLUTIONS) -> None:
    """Prints how `answer` compares with the reference, and records a right one. A wrong one raises nothing.

    Args:
        seed: of the random cases; by default a new one each time.

    Raises:
        CourseError: when there is no such exercise.
    """
    exercise = find(exercise_id, solutions)
    assessment = assess(exercise, answer, secrets.randbelow(10**6) if seed is None else seed)
    print(f"{exercise_id}  {assessment.message}")
    if assessment.status == "right":
        _recognised.pop(exercise_id, None)
        attempts.record_solved(exercise_id)
    elif assessment.status == "wrong":
        _recognised[exercise_id] = assessment.mistake or ""
        print(_offer(exercise_id, attempts.record_wrong(exercise_id)))


def _offer(exercise_id: str, wrong: int) -> str:
    offer = f'     exercises.hint("{exercise_id}") gives a hint'
    solution = f'; exercises.solution("{exercise_id}") shows a solution'
    return f"{offer}{solution if wrong >= ATTEMPTS_BEFORE_SOLUTION else ''}."


def hint(exercise_id: str, *, solutions: Path = SOLUTIONS) -> None:
    """Prints the next hint: the one for the mistake that was made, where it is a known one, then three steps.

    Before the first attempt there is none.

    Raises:
        CourseError: when there is no such exercise.
    """
    exercise = find(exercise_id, solutions)
    wrong, given = attempts.counts(exercise_id)
    if not wrong:
        print(f"{exercise_id}  Check an answer of your own first; then there are hints.")
    elif mistake := _recognised.pop(exercise_id, ""):
        print(f"{exercise_id}  {mistake}")
    else:
        step = min(given, len(exercise.hints) - 1)
        attempts.record_hint(exercise_id)
        print(f"{exercise_id}  Hint {step + 1} of {len(exercise.hints)}: {exercise.hints[step]}")


def solution(exercise_id: str, *, solutions: Path = SOLUTIONS) -> None:
    """Prints the reference's source, once the exercise is solved or three wrong answers were checked.

    Raises:
        CourseError: when there is no such exercise.
    """
    exercise = find(exercise_id, solutions)
    wrong = attempts.counts(exercise_id)[0]
    if wrong < ATTEMPTS_BEFORE_SOLUTION and exercise_id not in attempts.solved():
        print(f"{exercise_id}  The solution is shown after {ATTEMPTS_BEFORE_SOLUTION} checked answers; {wrong} so far.")
    else:
        print(*imports_of(exercise.solution), inspect.getsource(exercise.solution).rstrip(), sep="\n")


def imports_of(function: Callable) -> list[str]:
    """The lines of the function's file that import what the function uses."""
    tree = ast.parse(Path(inspect.getfile(function)).read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Name)}
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [ast.unparse(node) for node in imports if used & {each.asname or each.name for each in node.names}]


def case(exercise_id: str, seed: int, number: int, *, solutions: Path = SOLUTIONS) -> tuple:
    """The arguments of one call of a check, as its message names it: too large to be written out.

    Raises:
        CourseError: when there is no such exercise.
    """
    return find(exercise_id, solutions).cases(seed)[number]


# --- judging ----------------------------------------------------------------------------------------------------------


def assess(exercise: Exercise, answer: Callable, seed: int = 0) -> Assessment:
    """Calls `answer` with every case and compares it with the solution, then runs the trial; records nothing."""
    if not callable(answer):
        return Assessment("wrong", f"not yet: a function is expected, this is {as_text(answer)}.")
    cases = exercise.cases(seed)
    got = call_all(answer, cases)
    cases = cases[: len(got)]  # where one has not ended, none follows it
    if _is_stub(answer, got):
        return Assessment("not attempted", "not attempted yet.")
    if fault := _find_fault(exercise, answer, cases, got, seed):
        return Assessment("wrong", f"not yet:\n     {fault}", _find_mistake(exercise, cases, got))
    return _assess_in_model(exercise, answer)


def _is_stub(answer: Callable, got: Sequence[Call]) -> bool:
    if got and all(isinstance(each.value, NotImplementedError) for each in got):
        return True
    code = getattr(answer, "__code__", None)
    steps = list(dis.get_instructions(code)) if code else []
    loaded = {step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")}
    return loaded == {None} and {step.opname for step in steps} <= STUB_OPERATIONS


def _find_fault(exercise: Exercise, answer: Callable, cases: list, got: list[Call], seed: int) -> str | None:
    """Of all calls that went wrong, the one that is shortest to write."""
    names = list(inspect.signature(exercise.solution).parameters)
    faults = []
    for number, (arguments, given) in enumerate(zip(cases, got, strict=True)):
        if text := find_fault(call(exercise.solution, arguments), given, arguments, names, **exercise.tolerances):
            faults.append(f"{_as_call(exercise, arguments, seed, number)}\n     {text}")
    if faults:
        return f"{min(faults, key=len)}\n     {_how_to_repeat(exercise, seed)}"
    if (at := find_dependence(answer, cases, got)) is not None:
        line = _as_call(exercise, cases[at], seed, at)
        return f"{line}\n     gives another value when it is called again: it depends on the calls before."
    return None


def _as_call(exercise: Exercise, arguments: tuple, seed: int, number: int) -> str:
    return as_call(exercise.solution.__name__, arguments, f'exercises.case("{exercise.id}", {seed}, {number})')


def _how_to_repeat(exercise: Exercise, seed: int) -> str:
    return f'exercises.check("{exercise.id}", {exercise.solution.__name__}, seed={seed}) repeats this check.'


def _find_mistake(exercise: Exercise, cases: list, got: list[Call]) -> str | None:
    """The hint of the known mistake that gives the same values."""
    names = list(inspect.signature(exercise.solution).parameters)
    for mistake in exercise.mistakes:
        made = call_all(mistake.function, cases)
        pairs = zip(made, got, cases, strict=True)
        if cases and not any(
            find_fault(right, given, case, names, **exercise.tolerances) for right, given, case in pairs
        ):
            return mistake.hint
    return None


def _assess_in_model(exercise: Exercise, answer: Callable) -> Assessment:
    if exercise.trial is None:
        return Assessment("right", "right.")
    try:
        found = exercise.trial(settled(answer))
    except Wrong as error:
        return Assessment("wrong", f"not yet: in the model, {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - raised by a learner's code inside the model, or not:
        exercise.trial(exercise.solution)  # raises where the machine, not the answer, is the cause
        first_line = str(error).partition("\n")[0]
        return Assessment("wrong", f"not yet: in the model, it raises {type(error).__name__}: {first_line}")
    return Assessment("right", f"right. {found}")


# --- the solutions' files ---------------------------------------------------------------------------------------------


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


def progress(solutions: Path = SOLUTIONS) -> dict[str, list[tuple[Exercise, bool]]]:
    """Per notebook name, in order: its exercises, each with whether it is solved."""
    if solutions == SOLUTIONS:
        require_checkout("The course")
    done = attempts.solved()
    return {
        path.stem: [(exercise, exercise.id in done) for exercise in load(path)]
        for path in sorted(solutions.glob(f"{PAGE}.py"))
    }
