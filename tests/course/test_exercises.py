"""What a learner sees of a check, a hint and a solution; how answers are judged."""

import re
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from labsupport.base.errors import CourseError
from labsupport.course import attempts, calls, exercises
from labsupport.course.exercises import Exercise, Mistake, assess, check, hint, solution

PLANTED = """
import numpy as np
from labsupport.course.exercises import Exercise, Mistake, Wrong

def double(x):
    return 2 * x

def draw(rng):
    return (rng.standard_normal(rng.integers(1, 5, rng.integers(1, 4))),)

def run(answer):
    if answer(3.0) != 6.0:
        raise Wrong("three is doubled wrongly.")
    return "The model runs."

EXERCISES = [
    Exercise(
        id="7.1", title="double an array", hints=("first", "second", "third"),
        solution=double, variants=[lambda x: x + x], draw=draw, edges=[(np.zeros((2, 0)),)], trial=run,
        mistakes=[Mistake(lambda x: x**2, "that is the square"), Mistake(lambda x: x, "nothing happened")],
    ),
    Exercise(
        id="7.2", title="in the model alone", hints=("a", "b", "c"),
        solution=double, variants=[], mistakes=[], trial=run,
    ),
]
"""


@pytest.fixture
def solutions(tmp_path, monkeypatch):
    (tmp_path / "07_planted.py").write_text(PLANTED)
    monkeypatch.setattr(exercises, "_recognised", {})
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


seen = []


def with_memory(x):
    seen.append(1)
    return 2 * x if len(seen) < 22 else x


@pytest.mark.parametrize("answer", [stub, documented_stub, lambda x: None])
def test_an_untouched_stub_is_not_attempted_and_gets_no_hint(solutions, capsys, answer):
    check("7.1", answer, solutions=solutions)
    hint("7.1", solutions=solutions)
    assert capsys.readouterr().out == (
        "7.1  not attempted yet.\n7.1  Check an answer of your own first; then there are hints.\n"
    )
    assert (attempts.solved(), attempts.counts("7.1")) == ({}, (0, 0))


@pytest.mark.parametrize("answer", [lambda x: 2 * x, lambda x: x + x, lambda x: np.asarray(2 * x).tolist()])
def test_a_right_answer_is_recorded(solutions, capsys, answer):
    check("7.1", answer, solutions=solutions)
    assert capsys.readouterr().out == "7.1  right. The model runs.\n"
    assert list(attempts.solved()) == ["7.1"]
    assert [done for _, done in exercises.progress(solutions)["07_planted"]] == [True, False]


WRONG = {
    "is a `return` missing?": lambda x: print(end=""),
    "raises ZeroDivisionError: division by zero": lambda x: 1 / 0,
    "has shape (1, ": lambda x: 2 * x[None],
    "changes its argument `x`": in_place,
    "integer values": lambda x: (2 * x).astype(int),
    "gives another value when it is called again": with_memory,
    "is expected": lambda x: np.zeros_like(x),
    "in the model, three is doubled wrongly.": lambda x: x + x if isinstance(x, np.ndarray) else x,
    "in the model, it raises AttributeError": lambda x: (x.shape, 2 * x)[1],
    "raises SystemExit": lambda x: sys.exit(),
    "in the model, it raises SystemExit": lambda x: 2 * x if isinstance(x, np.ndarray) else sys.exit(),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_answer_gets_what_differs_and_records_nothing(solutions, capsys, text):
    check("7.1", WRONG[text], solutions=solutions)
    printed = capsys.readouterr().out
    assert text in printed
    assert printed.startswith("7.1  not yet:")
    assert printed.endswith('exercises.hint("7.1") gives a hint.\n')
    assert (attempts.solved(), attempts.counts("7.1")) == ({}, (1, 0))


def test_the_line_of_a_wrong_call_can_be_pasted_and_its_seed_repeats_it(solutions, capsys):
    check("7.1", lambda x: 3 * x, solutions=solutions)
    printed = capsys.readouterr().out
    line = printed.splitlines()[1].strip()
    double = exercises.find("7.1", solutions).solution
    namespace = SimpleNamespace(case=partial(exercises.case, solutions=solutions))  # a large array is not written out
    assert np.abs(eval(line, {"np": np, "double": double, "exercises": namespace})).sum() > 0
    seed = int(re.search(r"seed=(\d+)\) repeats this check", printed)[1])
    check("7.1", lambda x: 3 * x, seed=seed, solutions=solutions)
    assert capsys.readouterr().out == printed


def test_an_answer_that_does_not_end_is_wrong_and_its_call_is_shown(planted, monkeypatch):
    def endless_for_a_row(x):
        while x.ndim == 1:
            pass
        return 2 * x

    monkeypatch.setattr(calls, "SECONDS", 0.2)
    message = assess(planted, endless_for_a_row).message
    assert re.match(r"not yet:\n     double\(.*\)\n     raises TimeoutError: it has not ended after 0.2 s\n", message)


def test_where_the_model_cannot_run_with_the_solution_either_the_answer_is_not_blamed(solutions, capsys):
    (solutions / "08_planted.py").write_text(
        PLANTED.replace('id="7.', 'id="8.').replace("answer(3.0)", "open('/no such file')")
    )
    with pytest.raises(FileNotFoundError):
        check("8.1", lambda x: 2 * x, solutions=solutions)


def test_what_an_answer_yields_counts_in_the_cases_and_in_the_model(solutions):
    def run(answer):
        if answer([3]) != [6]:
            raise exercises.Wrong("other numbers come out.")
        return ""

    def double(x):
        return [2 * each for each in x]

    def lazy(x):
        yield from double(x)

    exercise = Exercise("7.3", "", ("", "", ""), double, [], [], edges=[([1, 2],), ([],)], trial=run)
    assert assess(exercise, lazy).status == "right"
    assert assess(exercise, lambda x: map(abs, x)).status == "wrong"


def test_cases_are_drawn_anew_and_a_seed_gives_the_same(planted, solutions):
    def shapes(seed):
        return [case[0].shape for case in planted.cases(seed)]

    assert shapes(1) == shapes(1) != shapes(2)
    assert len(planted.cases(1)) == 1 + planted.draws
    assert np.array_equal(exercises.case("7.1", 5, 3, solutions=solutions)[0], planted.cases(5)[3][0])


def test_hints_come_on_request_first_the_one_for_the_mistake_then_three_steps(solutions, capsys):
    check("7.1", lambda x: x * x, solutions=solutions)
    capsys.readouterr()
    for _ in range(5):
        hint("7.1", solutions=solutions)
    given = [f"7.1  Hint {n} of 3: {text}" for n, text in ((1, "first"), (2, "second"), (3, "third"), (3, "third"))]
    assert capsys.readouterr().out.splitlines() == ["7.1  that is the square", *given]


def test_the_solution_is_shown_after_three_answers_or_one_that_is_right(solutions, capsys):
    for wrong in range(3):
        solution("7.1", solutions=solutions)
        assert f"after 3 checked answers; {wrong} so far" in capsys.readouterr().out
        check("7.1", lambda x: x, solutions=solutions)
    assert 'exercises.solution("7.1") shows a solution' in capsys.readouterr().out
    solution("7.1", solutions=solutions)
    assert capsys.readouterr().out == "def double(x):\n    return 2 * x\n"
    check("7.2", lambda x: 2 * x, solutions=solutions)
    capsys.readouterr()
    solution("7.2", solutions=solutions)
    assert "return 2 * x" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "status"), [(stub, "not attempted"), (lambda x: 3, "wrong"), (in_place, "right")])
def test_where_there_are_no_cases_the_model_alone_judges(solutions, answer, status):
    assert assess(exercises.find("7.2", solutions), answer).status == status


def test_an_answer_that_is_no_function_is_wrong(planted):
    assert "a function is expected" in assess(planted, 3).message


@pytest.mark.parametrize(
    "call", [lambda path: check("7.9", stub, solutions=path), lambda path: hint("7.9", solutions=path)]
)
def test_an_unknown_exercise_is_an_error(solutions, call):
    with pytest.raises(CourseError, match=r"'7\.9'"):
        call(solutions)


def test_the_tolerance_and_the_dtype_are_the_exercise_s_own():
    def exercise(**options):
        mistake = Mistake(lambda: 2.0, "")
        return Exercise("1.1", "", ("", "", ""), lambda: np.ones(2, np.int8), [], [mistake], edges=[()], **options)

    assert assess(exercise(), lambda: np.ones(2, np.int64)).status == "right"
    assert assess(exercise(exact_dtype=True), lambda: np.ones(2, np.int64)).status == "wrong"
    assert assess(exercise(exact_dtype=True), lambda: np.ones(2, np.int8)).status == "right"
    loose = Exercise("1.1", "", ("", "", ""), lambda: 1.0, [], [], edges=[()], rtol=0.2)
    assert [assess(loose, lambda: 1.1).status, assess(loose, lambda: 1.3).status] == ["right", "wrong"]
