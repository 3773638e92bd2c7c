"""How a learner's value differs from the expected one, in words; and a value as source text that can be pasted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHOWN = 24  # an array of so many values at most is printed whole
MAKERS = {"numpy": "np.array", "torch": "torch.tensor", "mindspore": "mindspore.Tensor"}
EPSILON = {"float64": 2.2e-16, "float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.8e-3}
SIX_DIGITS, WHOLE = 1e-6, 1e-12  # how far numbers may differ; the latter where a whole number is expected
KINDS = {"b": "bool", "i": "integer", "u": "integer", "f": "floating-point", "c": "complex"}


def difference(
    expected: Any, got: Any, rtol: float | None = None, atol: float | None = None, exact_dtype: bool = False
) -> str | None:
    """A description of how `got` differs from `expected`; None when they are equal within the tolerances.

    What counts is the value, not its wrapping: a list, a tuple, and an array of NumPy, torch or MindSpore are equal
    where shape and numbers are, and so are a number and an array without axes. Dictionaries are compared inside.

    Args:
        rtol, atol: as in `numpy.isclose`; by default what the coarser of the two floating-point types allows.
        exact_dtype: whether an array must have just the expected dtype; else its kind (bool, integer, floating-point).
    """
    if isinstance(expected, BaseException) or isinstance(got, BaseException):
        return _difference_of_errors(expected, got)
    if got is None and expected is not None:
        return "gives None: is a `return` missing?"
    if is_array(expected) and tuple(expected.shape):
        return _difference_of_arrays(expected, got, rtol, atol, exact_dtype)
    if isinstance(expected, Mapping):
        return _difference_of_mappings(expected, got, rtol, atol, exact_dtype)
    if isinstance(expected, (list, tuple)):
        return _difference_of_sequences(expected, got, rtol, atol, exact_dtype)
    return _difference_of_scalars(expected, got, rtol, atol)


def _difference_of_errors(expected: Any, got: Any) -> str | None:
    if isinstance(expected, BaseException) and isinstance(got, type(expected)):
        return None
    if isinstance(got, BaseException):
        first_line = str(got).partition("\n")[0]
        return f"raises {type(got).__name__}: {first_line}"
    return f"gives {as_text(got)}; {type(expected).__name__} must be raised"


def _difference_of_mappings(expected: Mapping, got: Any, *tolerances) -> str | None:
    if not isinstance(got, Mapping):
        return _instead(expected, got)
    if set(expected) != set(got):
        return f"gives the keys {list(got)}; {list(expected)} are expected"
    return _first_inside({key: (expected[key], got[key]) for key in expected}, *tolerances)


def _difference_of_sequences(expected: Sequence, got: Any, *tolerances) -> str | None:
    rows = list(as_numpy(got)) if is_array(got) and tuple(got.shape) else got  # each with the array's dtype
    if not isinstance(rows, (list, tuple)):
        return _instead(expected, got)
    got = as_numpy(got).tolist() if is_array(got) else list(rows)
    if len(expected) != len(rows):
        return f"gives {as_text(got)}, {_count(len(rows), 'item')}; {as_text(expected)} is expected"
    found = _first_inside(dict(enumerate(zip(expected, rows, strict=True))), *tolerances)
    return f"{_instead(expected, got)}: {found}" if found and _is_short(expected) and _is_short(got) else found


def _first_inside(pairs: Mapping, *tolerances) -> str | None:
    for place, (right, value) in pairs.items():
        if text := difference(right, value, *tolerances):
            return f"at [{place!r}] {text}"
    return None


def _difference_of_scalars(expected: Any, got: Any, rtol: float | None, atol: float | None) -> str | None:
    if is_array(got) and tuple(got.shape):
        return f"has shape {tuple(got.shape)}; a single value, {as_text(expected)}, is expected"
    right, value = (as_numpy(each).item() if is_array(each) else each for each in (expected, got))
    if isinstance(right, numbers.Number) and isinstance(value, numbers.Number):
        arrays = np.asarray(right), np.asarray(value)
        if any(array.dtype.kind not in KINDS for array in arrays):  # whole numbers beyond 64 bits
            return None if right == value else _instead(expected, got)
        close = _are_close(*arrays, rtol, atol, max(_resolution(expected), _resolution(got)))
        alike = all(isinstance(right, kind) == isinstance(value, kind) for kind in (bool, complex))
        same = alike and bool(close)
    else:
        same = type(right) is type(value) and right == value
    return None if same else _instead(expected, got)


def _difference_of_arrays(
    expected: Any, got: Any, rtol: float | None, atol: float | None, exact_dtype: bool
) -> str | None:
    try:
        right, value = as_numpy(expected), as_numpy(got) if is_array(got) else _from_lists(got)
    except ValueError:
        return _instead(expected, got)
    if right.shape != value.shape:
        return f"has shape {value.shape}; {right.shape} is expected"
    if text := _difference_of_dtypes(expected, got, right, value, exact_dtype):
        return text
    resolution = max(_resolution(expected), _resolution(got))
    wrong = np.argwhere(~_are_close(right, value, rtol, atol, resolution))
    if not len(wrong):
        return None
    if right.size <= SHOWN:
        return _instead(right.tolist(), value.tolist())
    place = tuple(int(index) for index in wrong[0])
    first = f"{value[place]:.6g} where {right[place]:.6g} is expected"
    return f"has {first}, first at index {list(place)}; {len(wrong)} of {value.size} values differ"


def _from_lists(value: Any) -> np.ndarray:
    """Nested lists of numbers as an array; ValueError for anything else."""
    if isinstance(value, (list, tuple)):
        array = np.asarray([as_numpy(row) if is_array(row) else _from_lists(row) for row in value])
    else:
        array = np.asarray(value)
    if array.dtype.kind not in KINDS:
        raise ValueError("no numbers")
    return array


def _difference_of_dtypes(expected: Any, got: Any, right: np.ndarray, value: np.ndarray, exact: bool) -> str | None:
    """Of an array the kind counts, or the very dtype; lists have no dtype of their own, whole numbers may be floats."""
    if exact and is_array(got) and dtype_name(got) != dtype_name(expected):
        return f"has dtype {dtype_name(got)}; {dtype_name(expected)} is expected"
    kinds = KINDS.get(right.dtype.kind), KINDS.get(value.dtype.kind)
    if kinds[0] == kinds[1] or (not is_array(got) and "bool" not in kinds):
        return None
    return f"has {kinds[1]} values ({dtype_name(got) if is_array(got) else 'a list'}); {kinds[0]} ones are expected"


def _are_close(
    right: np.ndarray, value: np.ndarray, rtol: float | None, atol: float | None, resolution: float
) -> np.ndarray:
    """Elementwise, to `resolution` of the value and of the largest value; whole numbers must be the same."""
    if not {right.dtype.kind, value.dtype.kind} & {"f", "c"}:
        return right == value
    if rtol is None:
        rtol = resolution if right.dtype.kind in "fc" else WHOLE
    finite = np.abs(right[np.isfinite(right)])
    largest = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        atol = min(rtol, resolution) * largest + WHOLE if atol is None else atol
        return np.isclose(value, right, rtol=rtol, atol=atol, equal_nan=True)


def _resolution(value: object) -> float:
    """What another order of a few operations may change: three quarters of the type's digits, at most six digits.

    A plain number may have been a float32 of torch before, and has no more digits then.
    """
    if isinstance(value, (list, tuple)):
        return max(map(_resolution, value), default=SIX_DIGITS)
    return max(SIX_DIGITS, EPSILON.get(dtype_name(value), 0.0) ** 0.75) if is_array(value) else SIX_DIGITS


def _instead(expected: object, got: object) -> str:
    return f"gives {as_text(got)}; {as_text(expected)} is expected"


def _is_short(value: object) -> bool:
    return len(repr(value)) <= 120


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- values as text ---------------------------------------------------------------------------------------------------


def as_text(value: Any) -> str:
    """A value for a message: what `as_source` gives, or an array by its dtype and shape, or a shortened repr."""
    if is_array(value) and math.prod(value.shape) > SHOWN:
        return f"a {library(value)} array of dtype {dtype_name(value)} and shape {tuple(value.shape)}"
    text = as_source(value) or repr(value)
    return text if len(text) <= 400 else f"{text[:397]}..."


def as_source(value: Any) -> str | None:
    """The value as an expression that gives it again where `np` and `torch` are imported; None where there is none.

    Arrays up to 24 values are written out with their dtype.
    """
    try:
        return _source(value)
    except TypeError:
        return None


def _source(value: Any) -> str:
    if isinstance(value, np.generic):
        return f"np.{value.dtype.name}({_source(value.item())})"
    if is_array(value):
        return _array_source(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if type(value) in (list, tuple):
        text = ", ".join(map(_source, value))
        return f"[{text}]" if type(value) is list else f"({text}{',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return f"{{{', '.join(f'{_source(key)}: {_source(each)}' for key, each in value.items())}}}"
    if isinstance(value, (bool, int, float, complex, str, bytes, slice, type(None))):
        return repr(value)
    raise TypeError(f"{type(value).__name__} has no literal")


def _array_source(array: Any) -> str:
    if library(array) not in MAKERS or math.prod(array.shape) > SHOWN:
        raise TypeError("an unknown or a large array")
    maker, name = MAKERS[library(array)], dtype_name(array)
    module = maker.partition(".")[0]
    dtype = "bool" if (module, name) == ("np", "bool") else f"{module}.{name}"
    if 0 in array.shape and len(array.shape) > 1:  # nested lists would lose the shape
        return f"{module}.{'ops.' if module == 'mindspore' else ''}zeros({tuple(array.shape)}, dtype={dtype})"
    return f"{maker}({_source(as_numpy(array).tolist())}, dtype={dtype})"


def comparable(value: Any) -> Any:
    """The value with its type's name in place of whatever is no array, number, text, list, tuple or dictionary."""
    if type(value) in (list, tuple):
        return [comparable(each) for each in value]
    if type(value) is dict:
        return {key: comparable(each) for key, each in value.items()}
    plain = is_array(value) or isinstance(value, (bool, numbers.Number, str, bytes, type(None)))
    return value if plain else type(value).__name__


def is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def library(array: object) -> str:
    return type(array).__module__.partition(".")[0]


def dtype_name(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2].lower()


def as_numpy(array: Any) -> np.ndarray:
    """The values as a NumPy array; bfloat16 is widened, because NumPy has none."""
    if library(array) == "torch":
        array = array.detach().cpu()
        return (array.float() if dtype_name(array) == "bfloat16" else array).numpy()
    if hasattr(array, "asnumpy"):
        return (array.float() if dtype_name(array) == "bfloat16" else array).asnumpy()
    return np.asarray(array)
