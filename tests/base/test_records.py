"""Stored records of this version, an older and a newer one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from labsupport.base.records import from_fields, read_json


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Record:
    name: str
    seconds: float
    count: int = 0
    done: bool = False
    parts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    inner: Inner | None = None


WHOLE = {
    "name": "a",
    "seconds": 1,
    "count": 2,
    "done": True,
    "parts": {"x": 0.5},
    "notes": ["n"],
    "inner": {"name": "b"},
}


def test_a_whole_record_is_read():
    assert from_fields(Record, WHOLE) == Record("a", 1, 2, True, {"x": 0.5}, ["n"], Inner("b"))


def test_what_is_newer_is_dropped_and_what_is_lacking_has_its_default():
    assert from_fields(Record, {"name": "a", "seconds": 1.5, "colour": "red"}) == Record("a", 1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"name": None}, {"name": 3}, {"seconds": "1"}, {"seconds": True}, {"seconds": float("nan")},
        {"seconds": 10**400}, {"count": 1.5}, {"count": False}, {"count": 2**63},
        {"count": -(10**400)}, {"done": 1}, {"parts": []}, {"parts": {"x": "y"}},
        {"notes": "n"}, {"notes": [1]}, {"inner": "b"}, {"inner": []},
    ],
    ids=str,
)  # fmt: skip
def test_another_type_is_an_error_that_names_the_field(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}|JSON object"):
        from_fields(Record, {**WHOLE, **change})


@pytest.mark.parametrize("content", [None, [], 3, "x", {}, {"name": "a"}], ids=str)
def test_what_is_no_such_record_is_an_error(content):
    with pytest.raises(ValueError, match="it "):
        from_fields(Record, content)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "torn", "no UTF-8", "deep"])
def test_a_file_that_is_no_json_is_one_kind_of_error(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011  the message is json's own
        read_json(tmp_path / "a")
