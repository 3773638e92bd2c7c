"""The course's exercises: each accepts every right variant, refuses every wrong one, and fits its notebook's stub."""

import ast
import contextlib
import copy
import dataclasses
import inspect
import itertools
import json
import random
import re
import textwrap

import mutate_source
import numpy as np
import pytest
import torch

from labsupport.base.paths import NOTEBOOKS, PAGE
from labsupport.course import exercises
from labsupport.course import notebook as notebook_format
from labsupport.course.calls import call
from labsupport.course.comparison import difference
from labsupport.course.exercises import assess

FILES = sorted(exercises.SOLUTIONS.glob(f"{PAGE}.py"))
ALL = [exercise for path in FILES for exercise in exercises.load(path)]
PAGES = sorted(NOTEBOOKS / f"{path.stem}.ipynb" for path in FILES)
WITH_CASES = [exercise for exercise in ALL if exercise.draw]
IN_THE_MODEL = [exercise for exercise in ALL if exercise.trial]
SEED = random.randrange(10**6)

each = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
each_with_cases = pytest.mark.parametrize("exercise", WITH_CASES, ids=lambda exercise: exercise.id)
each_in_the_model = pytest.mark.parametrize(
    "exercise",
    [pytest.param(each, marks=[pytest.mark.slow, pytest.mark.weights]) for each in IN_THE_MODEL],
    ids=lambda exercise: exercise.id,
)


def number_of(path):
    """The part of an exercise's id before the point: "3" of 03_name, "00b" of 00b_name."""
    number = path.stem.partition("_")[0]
    return str(int(number)) if number.isdigit() else number


@pytest.fixture(autouse=True)
def seed():
    print(f"seed {SEED}")
    return SEED


def without_trial(exercise):
    """The same exercise, judged by its cases alone."""
    return dataclasses.replace(exercise, trial=None)


@each
def test_there_are_three_right_variants_and_five_wrong_ones(exercise):
    functions = [exercise.solution, *exercise.variants, *(mistake.function for mistake in exercise.mistakes)]
    named = [inspect.getsource(function) for function in functions if function.__name__ != "<lambda>"]
    assert len(exercise.variants) >= 3
    assert len(exercise.mistakes) >= 5
    assert len(set(named)) == len(named)
    assert len({*exercise.hints, *(mistake.hint for mistake in exercise.mistakes)}) == 3 + len(exercise.mistakes)


@each_with_cases
def test_the_cases_accept_every_right_variant(exercise, seed):
    for function, number in itertools.product([exercise.solution, *exercise.variants], range(5)):
        assessment = assess(without_trial(exercise), function, seed + number)
        assert assessment.status == "right", (function, assessment.message)


@each_with_cases
def test_the_cases_refuse_every_mistake_at_every_seed_and_know_its_hint(exercise, seed):
    for mistake, number in itertools.product(exercise.mistakes, range(5)):
        assessment = assess(without_trial(exercise), mistake.function, seed + number)
        assert (assessment.status, assessment.mistake) == ("wrong", mistake.hint), assessment.message


@each_in_the_model
def test_the_model_accepts_the_solution_or_a_variant_drawn_at_random(exercise, seed):
    """The cases above accept each of them; here one takes its place in the model, and below all of them do."""
    function = random.Random(f"{seed} {exercise.id}").choice([exercise.solution, *exercise.variants])
    assessment = assess(exercise, function, seed)
    assert assessment.status == "right", (function, assessment.message)


@pytest.mark.soak
@each_in_the_model
def test_the_model_accepts_the_solution_and_every_variant(exercise, seed):
    for function in (exercise.solution, *exercise.variants):
        assessment = assess(exercise, function, seed)
        assert assessment.status == "right", (function, assessment.message)


@each_in_the_model
def test_the_model_refuses_a_mistake_drawn_at_random(exercise, seed):
    mistake = random.Random(f"{seed} {exercise.id}").choice(exercise.mistakes)
    assert assess(exercise, mistake.function, seed).status == "wrong", mistake.hint


@pytest.mark.soak
@each_in_the_model
def test_the_model_refuses_every_mistake(exercise, seed):
    for mistake in exercise.mistakes:
        assert assess(exercise, mistake.function, seed).status == "wrong", mistake.hint


def test_at_least_twelve_exercises_replace_a_part_of_the_running_model():
    assert len(IN_THE_MODEL) >= 12


@each_with_cases
def test_the_expected_values_differ_from_case_to_case(exercise, seed):
    values = [call(exercise.solution, case).value for case in exercise.cases(seed)]
    assert any(difference(values[0], value) for value in values[1:]), "a constant would be right"


@each_with_cases
def test_no_mutant_of_the_solution_is_accepted(exercise, seed):
    """Those that compute the same are named in tests/data/equivalent_mutants, with the reason."""
    path = next(path for path in FILES if number_of(path) == exercise.id.split(".")[0])
    equivalent = equivalent_mutants(path.stem.partition("_")[0])
    accepted = {
        text
        for text, function in mutate_source.build(path, exercise.solution.__name__)
        if assess(without_trial(exercise), function, seed).status == "right"
    }
    assert accepted <= equivalent, sorted(accepted - equivalent)


def equivalent_mutants(number):
    path = NOTEBOOKS.parent / "tests" / "data" / "equivalent_mutants" / f"{number}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line.partition("  # ")[0] for line in lines if line}


# --- what a learner may give, and gets back ---------------------------------------------------------------------------


def in_form(value, form):
    """The value with each array, or list of numbers, in another form."""
    if isinstance(value, dict):
        return {key: in_form(each, form) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(each, (list, tuple, np.ndarray, str)) for each in value):
        return type(value)(in_form(each, form) for each in value)
    if isinstance(value, list) and None in value:  # no array holds it: its numbers one by one
        return [None if each is None else in_form(each, form) for each in value]
    return value if isinstance(value, str) else form(np.asarray(value))


FORMS = {
    "list": lambda value: in_form(value, lambda array: array.tolist()),
    "numpy": lambda value: in_form(value, lambda array: array[()]),
    "torch": lambda value: in_form(value, torch.as_tensor),
    "numbers that were float32": lambda value: in_form(value, lambda array: torch.tensor(array.tolist()).tolist()),
    "yielded": lambda value: iter(value) if isinstance(value, (list, tuple)) else value,
    "tuple": lambda value: tuple(value) if isinstance(value, list) else value,
}


@each_with_cases
@pytest.mark.parametrize("form", FORMS)
def test_a_right_value_is_right_in_any_form(exercise, form, seed):
    few = dataclasses.replace(exercise, trial=None, draws=5)
    assessment = assess(few, lambda *case: FORMS[form](exercise.solution(*case)), seed)
    assert assessment.status == "right", assessment.message


@each_with_cases
def test_every_argument_counts(exercise, seed):
    first = exercise.cases(seed)[0]
    for place in range(len(first) if len(first) > 1 else 0):

        def fixed(*case, place=place):
            return exercise.solution(*case[:place], copy.deepcopy(first[place]), *case[place + 1 :])

        assert assess(without_trial(exercise), fixed, seed).status == "wrong", place


@each_with_cases
def test_the_printed_call_and_seed_can_be_pasted_and_so_can_the_solution(exercise, seed, capsys):
    answer, name = exercise.mistakes[0].function, exercise.solution.__name__
    exercises.check(exercise.id, answer, seed=seed)
    printed = capsys.readouterr().out.splitlines()
    scope = {"np": np, "torch": torch, "exercises": exercises, name: answer}
    pasted = call(lambda: eval(printed[1].strip(), scope), ())
    assert isinstance(pasted.value, Exception) == ("     raises " in printed[2])
    for _ in range(exercises.ATTEMPTS_BEFORE_SOLUTION - 1):
        eval(printed[-2].strip().removesuffix(" repeats this check."), scope)
        assert capsys.readouterr().out.splitlines()[:-1] == printed[:-1]
    exercises.solution(exercise.id)
    alone = {}
    exec(capsys.readouterr().out, alone)
    assert assess(without_trial(exercise), alone[name], seed).status == "right"


# --- the notebooks' stubs ---------------------------------------------------------------------------------------------


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


@each
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


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob(f"{PAGE}.ipynb")), ids=lambda path: path.stem)
def test_every_check_in_a_notebook_has_its_solution_and_the_reverse(path):
    trees = [ast.parse(source) for source in sources(path) if "check(" in source]
    checked = set(itertools.chain.from_iterable(map(checks_in, trees)))
    number = number_of(path)
    assert checked == {exercise.id for exercise in ALL if exercise.id.split(".")[0] == number}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_stored_page_prints_no_hint(path):
    number = number_of(path)
    page = path.read_text(encoding="utf-8")
    hints = [hint for exercise in ALL if exercise.id.split(".")[0] == number for hint in exercise.hints]
    assert hints
    assert not [hint for hint in hints if hint in page]


def renamed(expression):
    """The expression as text, with its names numbered, so that another choice of names is the same."""
    expression, names = copy.deepcopy(expression), {}
    for node in ast.walk(expression):
        if isinstance(node, ast.Name):
            node.id = names.setdefault(node.id, f"name{len(names)}")
    return ast.unparse(expression)


def python_on(path):
    """Every piece of Python that a stored page shows: code, code in prose, printed text."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = notebook_format.joined(cell["source"])
        pieces = [source] if cell["cell_type"] == "code" else re.findall(r"`([^`\n]+)`", source)
        for output in cell.get("outputs", ()):
            pieces.append(textwrap.dedent(notebook_format.joined(output.get("text", ""))))
        for piece in pieces:
            with contextlib.suppress(SyntaxError, ValueError):
                yield ast.parse(piece)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob(f"{PAGE}.ipynb")), ids=lambda path: path.stem)
def test_a_stored_page_shows_no_solution_s_formula(path):
    shown = {renamed(node) for tree in python_on(path) for node in ast.walk(tree) if isinstance(node, ast.expr)}
    for exercise in (each for each in ALL if notebook_of(each) == path):
        tree = ast.parse(textwrap.dedent(inspect.getsource(exercise.solution)))
        results = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
        formulas = {renamed(each) for each in results if len(list(ast.walk(each))) > 12}
        assert not formulas & shown, exercise.id
