"""The learner's copy of the notebooks: new pages come into it, and nothing that the learner wrote is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, ROOT
from labsupport.course import notebook as notebook_format
from labsupport.course import runner, working_copy
from labsupport.course.working_copy import merge, sources

NAMES = "abcdefgh"


def cells(texts):
    return [{"id": name, "cell_type": "markdown", "metadata": {}, "source": text} for name, text in texts]


def texts_of(page):
    return [(cell["id"], cell["source"]) for cell in page]


pages = st.lists(st.sampled_from(NAMES), unique=True, max_size=6).flatmap(
    lambda names: st.tuples(*(st.tuples(st.just(name), st.sampled_from(["", "x", "y"])) for name in names))
)


@given(pages, pages)
def test_a_copy_that_nobody_changed_becomes_the_new_page(base, new):
    merged, conflicts = merge(cells(base), cells(base), cells(new))
    assert texts_of(merged) == list(new)
    assert conflicts == []


@given(pages, pages)
def test_a_page_that_did_not_change_leaves_the_copy_as_it_is(base, mine):
    merged, conflicts = merge(cells(base), cells(mine), cells(base))
    assert dict(texts_of(merged)) == dict(mine)
    assert conflicts == []


@given(pages, pages, pages)
def test_what_the_learner_wrote_stays_and_so_does_what_is_new(base, mine, new):
    merged, conflicts = merge(cells(base), cells(mine), cells(new))
    found, was = texts_of(merged), dict(base)
    assert len(dict(found)) == len(found)
    for name, text in mine:
        if was.get(name) != text:
            assert (name, text) in found
    for name, text in new:
        if was.get(name) != text and (name, text) not in found:
            assert name in conflicts
    both = {name for name, text in mine if was.get(name) != text} & {n for n, text in new if was.get(n) != text}
    assert set(conflicts) == {name for name in both if dict(mine)[name] != dict(new)[name]}


def test_an_added_cell_stays_behind_the_one_that_it_followed():
    base = cells([("a", "1"), ("b", "2"), ("c", "3")])
    mine = cells([("mine0", "0"), ("a", "1"), ("mine1", "!"), ("mine2", "?"), ("b", "2"), ("c", "3")])
    new = cells([("a", "1 new"), ("z", "between"), ("b", "2"), ("c", "3")])
    assert [name for name, _ in texts_of(merge(base, mine, new)[0])] == ["mine0", "a", "mine1", "mine2", "z", "b", "c"]


def test_outputs_stay_with_a_cell_that_did_not_change():
    base = cells([("a", "1")])
    mine = [{**base[0], "outputs": ["mine"]}]
    assert merge(base, mine, cells([("a", "1"), ("b", "")]))[0][0]["outputs"] == ["mine"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder with one page of the course, and a LAB_HOME of its own."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    (tmp_path / "course").mkdir()
    save(tmp_path / "course" / "01_a.ipynb", [("a", "1"), ("b", "2")])
    return tmp_path / "course"


def save(path, texts):
    page = {"cells": cells(texts), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(notebook_format.dump(page), encoding="utf-8")


def texts_in(path):
    return list(sources(runner.read(path)["cells"]).items())


def test_a_page_is_copied_updated_and_merged(course):
    mine, page = working_copy.folder() / "01_a.ipynb", course / "01_a.ipynb"
    assert [(each.name, each.status) for each in working_copy.update(course)] == [("01_a", "new")]
    assert mine.read_bytes() == page.read_bytes()
    assert working_copy.update(course) == []
    save(page, [("a", "1"), ("b", "two")])
    assert [each.status for each in working_copy.update(course)] == ["updated"]
    assert mine.read_bytes() == page.read_bytes()
    save(mine, [("a", "my answer"), ("b", "mine too"), ("own", "a note")])
    save(page, [("a", "1"), ("b", "2.0"), ("c", "3")])
    (change,) = working_copy.update(course)
    assert (change.status, change.conflicts) == ("merged", ("b",))
    assert texts_in(mine) == [("a", "my answer"), ("b", "mine too"), ("own", "a note"), ("c", "3")]
    assert working_copy.update(course) == []


@pytest.mark.parametrize("links", [True, False])
def test_what_the_pages_link_to_lies_beside_the_copy(course, monkeypatch, links):
    if not links:  # as on Windows without the right to make them
        monkeypatch.setattr(Path, "symlink_to", lambda *target, **how: (_ for _ in ()).throw(OSError(1314)))
    working_copy.update(course)
    working_copy.update(course)
    for name in ("data/glossary.md", "README.md"):
        place = working_copy.folder().parent / name
        assert place.read_bytes() == (ROOT / name).read_bytes()
    assert (working_copy.folder().parent / "data").is_symlink() is links


def test_a_damaged_copy_is_named_left_alone_and_holds_up_no_other_page(course):
    working_copy.update(course)
    mine = working_copy.folder() / "01_a.ipynb"
    mine.write_text("{", encoding="utf-8")
    save(course / "01_a.ipynb", [("a", "new")])
    save(course / "02_b.ipynb", [("a", "another")])
    with pytest.raises(CourseError, match="no notebook") as raised:
        working_copy.update(course)
    assert raised.value.where == mine
    assert mine.read_text(encoding="utf-8") == "{"
    assert texts_in(working_copy.folder() / "02_b.ipynb") == [("a", "another")]
    mine.unlink()
    assert [each.status for each in working_copy.update(course)] == ["new"]


def test_a_copy_saved_by_a_program_without_cell_ids_is_merged(course):
    working_copy.update(course)
    mine = working_copy.folder() / "01_a.ipynb"
    page = json.loads(mine.read_text(encoding="utf-8"))
    page["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "a note"})
    mine.write_text(json.dumps(page), encoding="utf-8")
    save(course / "01_a.ipynb", [("a", "1"), ("b", "new")])
    working_copy.update(course)
    assert [text for _, text in texts_in(mine)] == ["1", "new", "a note"]


def test_without_a_home_of_its_own_the_copy_lies_beside_the_notebooks(monkeypatch):
    monkeypatch.delenv("LAB_HOME")
    assert working_copy.folder() == ROOT / "my_notebooks"
    assert f"/{working_copy.folder().name}/" in {f"/{line}" for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert NOTEBOOKS.parent == working_copy.folder().parent
