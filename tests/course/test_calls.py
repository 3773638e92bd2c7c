"""Calls with many cases: values, arguments that are changed, order, and the call as a line."""

import collections
import contextlib
import fractions
import itertools
import time

import numpy as np
import pytest
import torch

from labsupport.course import calls
from labsupport.course.calls import as_call, call, call_all, find_dependence, find_fault, limit, settle


def double(x):
    return 2 * x


def double_in_place(x):
    x *= 2
    return x


def fault(solution, answer, case):
    return find_fault(call(solution, case), call(answer, case), case, ["x"])


def test_an_exception_stands_in_place_of_the_value():
    assert isinstance(call(lambda x: 1 / x, (0,)).value, ZeroDivisionError)


def test_a_call_gets_copies():
    case = (np.ones(2),)
    call(double_in_place, case)
    assert case[0].tolist() == [1, 1]


def test_a_changed_argument_is_a_fault_even_where_the_value_is_right():
    assert fault(double, double, (np.ones(2),)) is None
    assert "changes its argument `x`" in fault(double, double_in_place, (np.ones(2),))
    assert "changes its argument `x`" in fault(lambda x: len(x), lambda x: len(x) + len(x.sort() or []), ([3, 1],))


def sort_list(x):
    x.sort()


def test_where_the_solution_changes_its_argument_the_answer_must_do_so():
    assert fault(sort_list, lambda x: x.reverse(), ([2, 1],)) is None
    assert "must change its argument `x`" in fault(sort_list, lambda x: None, ([2, 1],))
    assert "must change its argument `x`" in fault(sort_list, lambda x: x.clear(), ([2, 1],))


def test_a_list_of_whatever_that_got_shorter_is_a_changed_argument():
    assert "changes its argument `x`" in fault(len, lambda x: len(x) + 0 * hash(x.pop()), ([object(), object()],))


def test_arguments_that_cannot_be_compared_are_left_alone():
    assert fault(lambda x: 1, lambda x: 1, (object(),)) is None


def test_an_answer_that_depends_on_the_calls_before_is_found():
    counter, cases = itertools.count(), [(1,), (2,), (3,)]

    def count(x):
        return next(counter)

    assert find_dependence(count, cases, call_all(count, cases)) == 0
    seen = set()

    def first_time(x):
        new = x not in seen
        seen.add(x)
        return new

    assert find_dependence(first_time, cases, call_all(first_time, cases)) == 0
    assert find_dependence(double, cases, call_all(double, cases)) is None


def test_a_call_is_a_line_that_can_be_pasted():
    line = as_call("double", (np.array([1.5, 2.0], np.float32),), "exercises.case('1.1', 3, 4)")
    assert line == "double(np.array([1.5, 2.0], dtype=np.float32))"
    assert eval(line, {"np": np, "double": double}).tolist() == [3, 4]
    assert as_call("double", (np.zeros(1000),), "case(1)") == "double(*case(1))"


SETTLED = {
    "generator": ((n for n in (1, 2)), [1, 2]),
    "zip": (zip([1], [2], strict=True), [(1, 2)]),
    "map and range": ((map(abs, [-1]), range(2)), ([1], [0, 1])),
    "view": ({"a": 1}.values(), [1]),
    "deque": (collections.deque([3]), [3]),
    "iterator inside": ({"a": iter("b")}, {"a": ["b"]}),
    "fraction": ([fractions.Fraction(1, 4)], [0.25]),
    "array of fractions": (np.array([fractions.Fraction(1, 4)]), [0.25]),
    "text": ("text", "text"),
    "set": ({1, 2}, {1, 2}),
    "nothing": (None, None),
}


@pytest.mark.parametrize(("value", "expected"), SETTLED.values(), ids=SETTLED)
def test_what_is_lazy_becomes_a_list_and_what_is_exact_a_float(value, expected):
    assert settle(value) == expected
    assert type(settle(value)) is type(expected)


def test_an_endless_iterator_is_cut_off_and_a_tensor_without_values_is_an_error(monkeypatch):
    monkeypatch.setattr(calls, "MOST_ITEMS", 3)
    assert call(itertools.count, (0,)).value == [0, 1, 2]
    assert call(range, (5,)).value == [0, 1, 2, 3, 4]
    assert isinstance(call(lambda: torch.empty(2, device="meta"), ()).value, NotImplementedError)
    assert isinstance(call(lambda: torch.eye(2).to_sparse(), ()).value, TypeError)


def test_calls_end_with_the_one_that_does_not_end(monkeypatch):
    def endless_for_two(x):
        while x == 2:
            pass
        return x

    monkeypatch.setattr(calls, "SECONDS", 0.2)
    values = [each.value for each in call_all(endless_for_two, [(1,), (2,), (3,)])]
    assert values[0] == 1
    assert str(values[1]) == "it has not ended after 0.2 s"
    assert len(values) == 2
    first = call_all(lambda x: x, [(1,), (2,), (3,)])
    assert find_dependence(endless_for_two, [(1,), (2,), (3,)], first) == 1


def test_a_limit_goes_past_except_exception_and_is_gone_afterwards():
    def endless():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.001)

    with pytest.raises(calls.TooLong), limit(0.05):
        endless()
    with limit(0.05):
        pass
    time.sleep(0.1)
