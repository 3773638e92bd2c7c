import ast
import inspect
import itertools
import json
import textwrap
import threading

import numpy as np
import pytest
import torch

from labsupport.base.errors import CourseError, FolderError
from labsupport.base.paths import NOTEBOOKS, lab_dir
from labsupport.course import exercises
from labsupport.course import notebook as notebook_format
from labsupport.course.exercises import Exercise, Mistake, assess, check, difference

ALL = [exercise for path in sorted(exercises.SOLUTIONS.glob("[0-9][0-9]_*.py")) for exercise in exercises.load(path)]
PLANTED = """
import numpy as np
from labsupport.course.exercises import Exercise
from labsupport.course.exercises import Mistake

def double(x):
    return 2 * x

EXERCISES = [
    Exercise(
        id="7.1", title="double an array", hint="add it to itself",
        solution=double, variant=lambda x: x + x,
        cases=[(np.arange(3.0),), (np.ones((2, 2), np.float32),)],
        mistakes=[
            Mistake(lambda x: x**2, "that is the square"),
            Mistake(lambda x: x, "nothing happened"),
            Mistake(lambda x: (2 * x).astype(np.float64), "keep the dtype"),
        ],
    )
]
"""


@pytest.fixture
def solutions(tmp_path):
    (tmp_path / "07_planted.py").write_text(PLANTED)
    return tmp_path


@pytest.fixture
def planted(solutions):
    return exercises.find("7.1", solutions)


def stub(x): ...


def documented_stub(x):
    """Says what to do."""
    raise NotImplementedError


def in_place(x):
    x *= 2
    return x


@pytest.mark.parametrize("answer", [stub, documented_stub, lambda x: None])
def test_an_untouched_stub_is_not_attempted_and_gets_the_general_hint(solutions, capsys, answer):
    check("7.1", answer, solutions=solutions)
    assert capsys.readouterr().out == "7.1  not attempted yet. Hint: add it to itself\n"
    assert exercises.solved() == {}


@pytest.mark.parametrize("answer", [lambda x: 2 * x, lambda x: x + x, in_place])
def test_a_right_answer_is_recorded(solutions, capsys, answer):
    check("7.1", answer, solutions=solutions)
    assert "right" in capsys.readouterr().out
    assert list(exercises.solved()) == ["7.1"]
    assert [(exercise.id, done) for exercise, done in exercises.progress(solutions)["07_planted"]] == [("7.1", True)]


WRONG = {
    "that is the square": lambda x: x * x,
    "nothing happened": lambda x: x,
    "keep the dtype": lambda x: np.float64(2) * x.astype(np.float64),
    "is a `return` missing?": lambda x: print(end=""),
    "raises ZeroDivisionError: division by zero": lambda x: 1 / 0,
    "has shape (1, 3); (3,) is expected": lambda x: 2 * x[None],
    "has dtype int64; float64 is expected": lambda x: (2 * x).astype(int),
    "gives [0.0, 2.0, 4.0]": lambda x: (2 * x).tolist(),
    "has 3 where 2 is expected, first at index [1]; 2 of 3 values differ": lambda x: 3 * x,
    "double(numpy float64 array of shape (3,))": lambda x: 3 * x,
}


@pytest.mark.parametrize("difference", WRONG)
def test_a_wrong_answer_gets_what_differs_and_records_nothing(solutions, capsys, difference):
    check("7.1", WRONG[difference], solutions=solutions)
    printed = capsys.readouterr().out
    assert difference in printed
    assert printed.startswith("7.1  not yet: ")
    assert exercises.solved() == {}


def test_an_answer_that_is_no_function_is_wrong(planted):
    assert "a function is expected" in assess(planted, 3).message


def test_an_unknown_exercise_is_an_error(solutions):
    with pytest.raises(CourseError, match=r"'7\.2'"):
        check("7.2", stub, solutions=solutions)


def plant_progress(content):
    path = lab_dir() / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


NEWER = {"schema": 3, "1.1": "2026-01-01", "1.2": {"date": "2026-01-02", "tries": 3}, "solved": ["1.3"]}


def test_progress_of_another_version_is_read_as_far_as_it_can_be_and_nothing_of_it_is_lost(solutions, capsys, caplog):
    path = plant_progress(json.dumps(NEWER))
    assert exercises.solved() == {"1.1": "2026-01-01"}
    assert "3 entries are of another version" in caplog.text
    check("7.1", lambda x: 2 * x, solutions=solutions)
    assert set(exercises.solved()) == {"1.1", "7.1"}
    assert {key: value for key, value in json.loads(path.read_text()).items() if key != "7.1"} == NEWER
    assert exercises.progress(solutions)["07_planted"][0][1]


@pytest.mark.parametrize("content", ["[]", "null", '[["1.1", "x"]]', "", "[" * 100_000])
def test_progress_that_is_no_progress_is_an_error(content):
    plant_progress(content)
    with pytest.raises(CourseError, match="damaged"):
        exercises.solved()


def test_progress_that_cannot_be_written_is_an_error_with_what_to_do(monkeypatch, tmp_path, solutions):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file"))
    with pytest.raises(FolderError) as caught:
        check("7.1", lambda x: 2 * x, solutions=solutions)
    assert "LAB_HOME" in caught.value.hint


def test_a_damaged_progress_file_is_an_error_that_names_it():
    path = lab_dir() / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    with pytest.raises(CourseError, match="damaged"):
        exercises.solved()


def test_two_notebooks_recording_at_once_lose_nothing():
    threads = [threading.Thread(target=exercises._record, args=(f"1.{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exercises.solved()) == 8


EQUAL = [
    (np.array([1.0, np.nan]), np.array([1.0 + 1e-9, np.nan])),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    (torch.ones(2, requires_grad=True), torch.ones(2)),
    (1.0, np.float32(1)),
    ([1, 2.0], (1, 2.0)),
    ({"a": "b"}, {"a": "b"}),
    ("text", "text"),
]
DIFFERENT = [
    (np.ones(2), torch.ones(2), "torch float32 array of shape (2,)"),
    (torch.ones(2), torch.ones(2, dtype=torch.float16), "has dtype torch.float16"),
    (1.0, 1.1, "gives 1.1; 1.0 is expected"),
    (1.0, torch.tensor(1.0), "gives torch float32 array of shape ()"),
    (1, True, "gives True"),
    ([1, 2], [1], "gives 1 items; 2 are expected"),
    ([1, [2, 3]], [1, [2, 4]], "at [1] at [1] gives 4; 3 is expected"),
    ({"a": 1}, {"b": 1}, "gives the keys ['b']; ['a'] are expected"),
    ({"a": 1}, {"a": 2}, "at ['a'] gives 2"),
    ("a", "b", "gives 'b'; 'a' is expected"),
    (True, 1, "gives 1; True is expected"),
    ([1], "1", "gives '1'"),
]


@pytest.mark.parametrize(("expected", "got"), EQUAL)
def test_values_within_the_tolerance_are_equal(expected, got):
    assert difference(expected, got) is None


@pytest.mark.parametrize(("expected", "got", "text"), DIFFERENT)
def test_what_differs_is_described(expected, got, text):
    assert text in difference(expected, got)


def test_the_tolerance_is_the_exercise_s_own():
    loose = Exercise("1.1", "", "", lambda: 1.0, lambda: 1.0, [()], [Mistake(lambda: 2.0, "")], rtol=0.2)
    assert assess(loose, lambda: 1.1).status == "right"
    assert assess(loose, lambda: 1.3).status == "wrong"


# --- the course's exercises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_the_solution_and_a_second_variant_are_accepted(exercise):
    assert exercise.solution is not exercise.variant
    assert assess(exercise, exercise.solution).status == "right"
    assert assess(exercise, exercise.variant).status == "right"


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_at_least_three_mistakes_are_rejected_each_with_its_own_hint(exercise):
    assert len(exercise.mistakes) >= 3
    assert len({mistake.hint for mistake in exercise.mistakes} | {exercise.hint}) == len(exercise.mistakes) + 1
    for mistake in exercise.mistakes:
        assessment = assess(exercise, mistake.function)
        assert assessment.status == "wrong"
        assert assessment.message.endswith(mistake.hint)


def notebook_of(exercise):
    return next(NOTEBOOKS.glob(f"{exercise.id.split('.')[0]:0>2}_*.ipynb"))


def sources(path):
    cells = notebook_format.code_cells(notebook_format.parse(path.read_text(encoding="utf-8")))
    return [notebook_format.joined(cell["source"]) for cell in cells]


def checks_in(tree):
    """(id, function name) of every `check("1.1", function)` in the tree."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) > 1]
    named = [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == "check"]
    return {call.args[0].value: call.args[1].id for call in named if isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_the_notebook_s_stub_matches_the_solution_and_is_unsolved(exercise):
    trees = [ast.parse(source) for source in sources(notebook_of(exercise)) if "check(" in source]
    tree = next(tree for tree in trees if exercise.id in checks_in(tree))
    name = checks_in(tree)[exercise.id]
    shown = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    solution = ast.parse(textwrap.dedent(inspect.getsource(exercise.solution))).body[0]
    assert (name, ast.unparse(shown.args)) == (solution.name, ast.unparse(solution.args))
    scope = {}
    exec(f"from __future__ import annotations\n{ast.unparse(shown)}", scope)
    assert assess(exercise, scope[name]).status == "not attempted"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")), ids=lambda path: path.stem)
def test_every_check_in_a_notebook_has_its_solution_and_the_reverse(path):
    trees = [ast.parse(source) for source in sources(path) if "check(" in source]
    checked = set(itertools.chain.from_iterable(map(checks_in, trees)))
    number = str(int(path.stem[:2]))
    assert checked == {exercise.id for exercise in ALL if exercise.id.split(".")[0] == number}
