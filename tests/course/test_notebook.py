"""A notebook read and written: the canonical form, titles, parameters, reasons of skips."""

from __future__ import annotations

import json

import pytest

from labsupport.base.errors import CourseError
from labsupport.course import notebook as notebook_format


def make_notebook(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def code_cell(source: str, **metadata) -> dict:
    return {"cell_type": "code", "execution_count": 1, "metadata": metadata, "outputs": [], "source": source}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nbformat": 3, "cells": []}'])
def test_what_is_no_notebook_is_a_clear_error(text):
    with pytest.raises(CourseError, match="no notebook"):
        notebook_format.parse(text)


DAMAGED = {
    "cells": [
        "text", {}, [1], [{}], [{"cell_type": "code"}],
        [{"cell_type": "markdown", "metadata": {}, "source": 1}],
        [{"cell_type": "markdown", "metadata": {}, "source": ["a", 1]}],
        [{"cell_type": "markdown", "metadata": None, "source": ""}],
        [{"cell_type": "code", "metadata": {"tags": 3}, "source": "", "outputs": [], "execution_count": 1}],
        [{"cell_type": "code", "metadata": {}, "source": "", "outputs": {}, "execution_count": 1}],
        [{"cell_type": "code", "metadata": {}, "source": "", "outputs": [3], "execution_count": 1}],
        [{"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"data": 3}], "execution_count": 1}],
    ],
    "metadata": [None, [], "text"],
}  # fmt: skip


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in DAMAGED.items() for value in values])
def test_a_damaged_part_is_a_clear_error(part, value):
    with pytest.raises(CourseError, match="no notebook: its"):
        notebook_format.parse(json.dumps(make_notebook() | {part: value}))


def test_json_without_end_is_a_clear_error():
    with pytest.raises(CourseError, match="JSON cannot be read"):
        notebook_format.parse("[" * 200_000)


def test_the_canonical_form_is_the_same_when_it_is_made_twice():
    twins = make_notebook(code_cell("1"), code_cell("1"))
    once = notebook_format.canonical(twins)
    assert len({cell["id"] for cell in once["cells"]}) == 2
    assert notebook_format.canonical(notebook_format.parse(notebook_format.dump(once))) == once


def test_parameters_are_literals_and_nothing_else():
    cell = code_cell("fast = True\nruns = 3", tags=["parameters"])
    assert notebook_format.parameters(make_notebook(cell)) == {"fast": True, "runs": 3}
    with pytest.raises(CourseError, match="name = value"):
        notebook_format.parameters(make_notebook(code_cell("runs = 1 + len('x')", tags=["parameters"])))


def test_title_and_reasons_of_skips_are_found():
    heading = {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "text"]}
    skipped = code_cell("skip()") | {"outputs": [{"data": {notebook_format.SKIP_MIME: {"reason": "no GPU"}}}]}
    notebook = make_notebook(heading, skipped)
    assert notebook_format.title(notebook) == "A title"
    assert notebook_format.title(make_notebook(code_cell("1"))) == ""
    assert notebook_format.skip_reasons(json.loads(json.dumps(notebook))) == ["no GPU"]
    odd = code_cell("skip()") | {"outputs": [{"data": {notebook_format.SKIP_MIME: value}} for value in ({}, "x", None)]}
    assert notebook_format.skip_reasons(make_notebook(odd)) == ["None", "x", "None"]
