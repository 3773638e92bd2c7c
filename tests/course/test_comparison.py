"""What counts as the same value, how a difference is described, and values as source text."""

import random

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from labsupport.course.comparison import as_source, as_text, comparable, difference

FLOATS = [0.5, -2.25, 3.0]
WRAPPED = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "numpy": lambda a: a,
    "torch": torch.tensor,
    "rows of a list": list,
}


@pytest.mark.parametrize("expected", WRAPPED)
@pytest.mark.parametrize("got", WRAPPED)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_the_wrapping_of_a_value_does_not_count(expected, got, dtype):
    array = np.array([[0, 1, 1], [2, 0, 5]], dtype)
    assert difference(WRAPPED[expected](array), WRAPPED[got](array)) is None


@given(hnp.arrays(np.float64, hnp.array_shapes(max_side=4), elements=st.floats(-1e3, 1e3)), st.randoms())
def test_one_changed_value_or_axis_is_found_in_any_wrapping(array, chance):
    other = array.copy()
    place = tuple(chance.randrange(length) for length in array.shape)
    other[place] += 1
    wrap = WRAPPED[chance.choice(sorted(WRAPPED))]
    assert difference(array, wrap(array)) is None
    assert difference(array, wrap(other))
    assert difference(array, wrap(array[None]))


SAME = [
    (1.0, np.float32(1)),
    (1.0, torch.tensor(1.0)),
    (2, 2.0),
    (True, np.bool_(True)),
    (np.bool_(False), False),
    (True, torch.tensor(True)),
    (7, np.int32(7)),
    (np.array(3.0), 3),
    ([1, (2.0, "a")], (1, [2, "a"])),
    ({"a": [1]}, {"a": np.array([1])}),
    (np.array([1.0, np.nan, np.inf]), [1.0, float("nan"), float("inf")]),
    (torch.ones(2, dtype=torch.bfloat16), [1.005, 1.0]),
    (np.ones(2, np.float16), np.array([1.002, 1.0])),
    (np.ones(2, np.float32), np.array([1 + 2e-6, 1.0])),
    (torch.ones(2, requires_grad=True), torch.ones(2)),
    (0.1, torch.tensor(0.1).item()),
    ([0.1, [0.2]], [torch.tensor(0.1), torch.tensor([0.2])]),
    (([0.1, 0.2], 3), (np.array([0.1, 0.2], np.float32), 3)),
    (np.array([[0.1], [0.2]]), [[torch.tensor(0.1, requires_grad=True)], [0.2]]),
    ([[0.1, 0.2]], np.array([[0.1, 0.2]], np.float16)),
    (0.0, 1e-17),
    ("a", np.str_("a")),
    (np.array([0.0, 1e6]), np.array([1e-5, 1e6], np.float32)),
    ("text", "text"),
    (None, None),
    (ValueError("a"), UnicodeError("b")),
]


@pytest.mark.parametrize(("expected", "got"), SAME)
def test_values_within_what_their_type_allows_are_the_same(expected, got):
    assert difference(expected, got) is None


DIFFERENT = [
    (1.0, 1.1, "gives 1.1; 1.0 is expected"),
    (1.0, 1.00001, "gives 1.00001"),
    (1, True, "gives True; 1 is expected"),
    (True, 1, "gives 1; True is expected"),
    (1606000000, 1606000001.0, "gives 1606000001.0"),
    (100, 100.00000005, "gives 100.00000005"),
    (2.5, 10**400, "gives 1000"),
    (2**70, 2**70 + 1, "is expected"),
    (1.0, 1 + 0j, "gives (1+0j)"),
    ([1, 2], {1, 2}, "gives {1, 2}"),
    (3, [3], "gives [3]; 3 is expected"),
    (3.0, np.array([3.0]), "has shape (1,); a single value, 3.0, is expected"),
    ([1, 2], [1], "gives [1], 1 item; [1, 2] is expected"),
    ([1, 2], 12, "gives 12; [1, 2] is expected"),
    ([1, 2], "12", "gives '12'"),
    ([1, [2, 3]], [1, [2, 4]], "gives [1, [2, 4]]; [1, [2, 3]] is expected"),
    ({"a": 1}, {"b": 1}, "gives the keys ['b']; ['a'] are expected"),
    ({"a": 1}, {"a": 2}, "at ['a'] gives 2; 1 is expected"),
    ({"a": 1}, [("a", 1)], "is expected"),
    ("a", "b", "gives 'b'; 'a' is expected"),
    (np.zeros(2), None, "is a `return` missing?"),
    (np.zeros(2), [[0], [0, 1]], "is expected"),
    (np.zeros(2), ["a", "b"], "is expected"),
    (np.zeros(2), np.zeros((2, 1)), "has shape (2, 1); (2,) is expected"),
    (np.zeros(2), np.zeros(2, int), "has integer values (int64); floating-point ones are expected"),
    (np.zeros(2, bool), [0, 0], "has integer values (a list); bool ones are expected"),
    (np.zeros(2, int), [False, False], "has bool values (a list); integer ones are expected"),
    (np.zeros(3), np.array([0.0, 1.0, 0.0]), "gives [0.0, 1.0, 0.0]; [0.0, 0.0, 0.0] is expected"),
    (np.zeros((5, 5)), np.eye(5), "has 1 where 0 is expected, first at index [0, 0]; 5 of 25 values differ"),
    (1.0, ValueError("no\nmore"), "raises ValueError: no"),
    (ValueError("a"), 1.0, "gives 1.0; ValueError must be raised"),
    (ValueError("a"), TypeError("b"), "raises TypeError: b"),
    (np.array([100, 7], np.int64), np.array([101, 7]), "gives [101, 7]"),
]


@pytest.mark.parametrize(("expected", "got", "text"), DIFFERENT)
def test_what_differs_is_described(expected, got, text):
    assert text in difference(expected, got)


def test_lists_of_whole_numbers_stand_for_floats():
    assert difference(np.array([1.0, 2.0]), [1, 2]) is None
    assert difference(np.array([1, 2]), [1.0, 2.5])


@pytest.mark.parametrize("dtype", ["float16", "int8", "float64"])
def test_an_exact_dtype_is_asked_of_arrays_not_of_lists(dtype):
    expected = np.array([1, 2], "float32" if dtype != "int8" else "int32")
    got = np.array([1, 2], dtype)
    assert f"has dtype {dtype}; {expected.dtype} is expected" in difference(expected, got, exact_dtype=True)
    assert difference(expected, got) is None
    assert difference(expected, [1, 2], exact_dtype=True) is None


def test_a_tolerance_of_the_exercise_s_own_goes_before_the_type_s():
    assert difference(1.0, 1.1, rtol=0.2) is None
    assert difference(1.0, 1.1, rtol=0.01)
    assert difference(np.ones(2, np.float16), np.array([1.002, 1.0]), rtol=1e-6, atol=0.0)


# --- values as text ---------------------------------------------------------------------------------------------------

VALUES = [
    3, -2.5, True, None, "a 'b'", b"x", float("inf"), [1, (2,), ()], {"a": [1.5]}, np.float32(0.1), np.int8(-3),
    np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32), np.array([True, False]), np.zeros((0, 3)),
    torch.tensor([1, 2], dtype=torch.int32), torch.tensor([0.5], dtype=torch.bfloat16), slice(1, 2),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_s_source_gives_the_value(value):
    again = eval(as_source(value), {"np": np, "torch": torch})
    assert type(again) is type(value)
    assert difference(value, again, rtol=0.0, atol=0.0, exact_dtype=True) is None


def test_large_arrays_and_other_objects_have_no_source():
    assert as_source(np.zeros(25)) is None
    assert as_source([np.zeros(25)]) is None
    assert as_source(object()) is None
    assert as_text(torch.zeros(5, 6)) == "a torch array of dtype float32 and shape (5, 6)"
    assert len(as_text(["x" * 1000])) == 400


def test_what_cannot_be_compared_is_its_type():
    array = np.zeros(2)
    assert comparable((1, {"a": array}, None, "x", random.Random(0))) == [1, {"a": array}, None, "x", "Random"]
