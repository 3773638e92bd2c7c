"""A learner's function called with many cases: what it gives, what it changes, whether it gives the same again."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from labsupport.course.comparison import as_numpy, as_source, comparable, difference, is_array

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0, "exact_dtype": True}
SECONDS = 30.0  # for all cases together
MOST_ITEMS = 10**6  # of an iterator, which may be endless


class TooLong(BaseException):
    """Raised in a learner's function that goes on and on; no `except Exception` catches it."""


@dataclass(frozen=True)
class Call:
    """One call: the value, or the exception that was raised in place of it; and the arguments as they were left."""

    value: object
    arguments: tuple


def call(function: Callable, case: tuple) -> Call:
    """Calls `function` with a copy of the arguments."""
    arguments = copy.deepcopy(case)
    try:
        return Call(settle(function(*arguments)), arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a learner's code raises is reported
        return Call(error, arguments)


def settled(function: Callable) -> Callable:
    """The function, with `settle` of what it gives."""
    return lambda *arguments, **named: settle(function(*arguments, **named))


def settle(value: Any) -> Any:
    """Lists in place of iterators, views and ranges, and floats in place of exact fractions; also inside of others."""
    if isinstance(value, (Fraction, Decimal)):
        return float(value)
    if is_array(value):
        plain = as_numpy(value)  # raises for a tensor that has no values: sparse, on the device meta
        return settle(plain.tolist()) if plain.dtype.kind == "O" else value
    if isinstance(value, Mapping):
        return {key: settle(each) for key, each in value.items()}
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, set, frozenset)):
        return value
    items = map(settle, value if isinstance(value, Sized) else itertools.islice(value, MOST_ITEMS))
    return tuple(items) if isinstance(value, tuple) else list(items)


def call_all(function: Callable, cases: Sequence[tuple]) -> list[Call]:
    """All calls; up to the one with a `TimeoutError` where they do not end within `SECONDS`."""
    calls: list[Call] = []
    try:
        with limit(SECONDS):
            for case in cases:
                calls.append(call(function, case))
    except TooLong:
        calls = calls[: len(cases) - 1]
        calls.append(Call(TimeoutError(f"it has not ended after {SECONDS:g} s"), cases[len(calls)]))
    return calls


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises `TooLong` in this thread after so many seconds, at its next step of Python."""
    thread = ctypes.c_ulong(threading.get_ident())
    raise_here = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(seconds, raise_here, (thread, ctypes.py_object(TooLong)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # what it raises, it raises here


def find_fault(expected: Call, got: Call, case: tuple, names: Sequence[str], **tolerances) -> str | None:
    """How a call differs from the expected one: by its value, or by what it did to its arguments."""
    if text := difference(expected.value, got.value, **tolerances):
        return text
    for name, *states in zip(names, case, expected.arguments, got.arguments, strict=False):
        before, right, left = map(comparable, states)
        if difference(before, right, **EXACT) is None:
            if difference(before, left, **EXACT):
                return f"gives the right value, but changes its argument `{name}`: work on a copy"
        elif text := difference(right, left, **tolerances):
            return f"must change its argument `{name}`, which then {text}"
    return None


def find_dependence(function: Callable, cases: Sequence[tuple], first: Sequence[Call]) -> int | None:
    """The number of the first case that gives another value when all are called again from last to first."""
    again = call_all(function, cases[::-1])
    numbers = reversed(range(len(cases)))
    others = [
        number
        for number, after in zip(numbers, again, strict=False)
        if difference(first[number].value, after.value) is not None
    ]
    return min(others, default=None)


def as_call(name: str, case: tuple, otherwise: str) -> str:
    """The call as a line that can be pasted; with `otherwise` for arguments that are too large to be written out."""
    sources = [as_source(argument) for argument in case]
    written = [source for source in sources if source is not None]
    if len(written) < len(case) or sum(map(len, written)) > 800:
        return f"{name}(*{otherwise})"
    return f"{name}({', '.join(written)})"
