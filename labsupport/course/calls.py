"""A learner's function called with many cases: what it gives, what it changes, whether it gives the same again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labsupport.course.comparison import as_source, comparable, difference

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0, "exact_dtype": True}


@dataclass(frozen=True)
class Call:
    """One call: the value, or the exception that was raised in place of it; and the arguments as they were left."""

    value: object
    arguments: tuple


def call(function: Callable, case: tuple) -> Call:
    """Calls `function` with a copy of the arguments."""
    arguments = copy.deepcopy(case)
    try:
        return Call(function(*arguments), arguments)
    except Exception as error:  # noqa: BLE001 - whatever a learner's code raises is reported, never passed on
        return Call(error, arguments)


def call_all(function: Callable, cases: Sequence[tuple]) -> list[Call]:
    return [call(function, case) for case in cases]


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
    again = [call(function, case) for case in reversed(cases)][::-1]
    for number, (before, after) in enumerate(zip(first, again, strict=True)):
        if difference(before.value, after.value) is not None:
            return number
    return None


def as_call(name: str, case: tuple, otherwise: str) -> str:
    """The call as a line that can be pasted; with `otherwise` for arguments that are too large to be written out."""
    sources = [as_source(argument) for argument in case]
    written = [source for source in sources if source is not None]
    if len(written) < len(case) or sum(map(len, written)) > 800:
        return f"{name}(*{otherwise})"
    return f"{name}({', '.join(written)})"
