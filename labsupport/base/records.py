"""Stored JSON records, which an older or a newer version of the lab may have written, as dataclasses."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """A JSON file's contents; ValueError where it is none, is not UTF-8, or is nested too deeply."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_fields(kind: type[T], content: object) -> T:
    """The dataclass that these JSON fields make.

    What a newer version added is dropped; what an older one lacked has its default.

    Raises:
        ValueError: a field has another type, or is absent and has no default; or it is no JSON object.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(typing.cast(Any, kind)):
        if field.name in content:
            values[field.name] = convert(content[field.name], hints[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"it has no {field.name!r}")
    return kind(**values)


def convert(value: Any, hint: Any, name: str) -> Any:
    """The value as its field holds it; ValueError where it has another type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        wanted = next((one for one in inner if one is not type(None)), None)
        return None if value is None and type(None) in inner else convert(value, wanted, name)
    if dataclasses.is_dataclass(hint):
        return from_fields(typing.cast(type, hint), value)
    if origin in (list, dict) and isinstance(value, origin):
        if origin is list:
            return [convert(item, inner[0], name) for item in value]
        return {convert(key, inner[0], name): convert(item, inner[1], name) for key, item in value.items()}
    if not is_plain(value, origin or hint):
        raise ValueError(f"its {name!r} is {value!r:.60}")
    return value


def is_plain(value: Any, kind: type) -> bool:
    """Whether it is of this type; an integer will do for a float, True is no number, and a number is finite.

    Nothing is counted beyond 64 bits: such an integer is no record's, and is more than a float can hold.
    """
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int and isinstance(value, int) and value.bit_length() > 63:
        return False
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
