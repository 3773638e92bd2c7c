"""Whisper from scratch stands twice, in torch and in MindSpore: one page but for the names of things."""

from __future__ import annotations

import re

import pytest

from labsupport.base.paths import NOTEBOOKS
from labsupport.course import notebook as notebook_format
from labsupport.course import runner

PAGES = [NOTEBOOKS / f"{name}.ipynb" for name in ("00b_whisper_from_scratch", "00c_whisper_from_scratch_mindspore")]


def read_cells(path, kind):
    """Texts of the page's cells up to its exercises, which one page has for both."""
    texts = [(cell["cell_type"], notebook_format.joined(cell["source"])) for cell in runner.read(path)["cells"]]
    end = next(i for i, (_, text) in enumerate(texts) if re.search("^## (Exercises|Quiz|What to remember)", text, re.M))
    return [text for each, text in texts[:end] if each == kind]


def headings(path):
    return re.findall("^#+ .*", "\n".join(read_cells(path, "markdown")), re.M)


def test_they_have_the_same_steps_and_nearly_the_same_prose():
    assert headings(PAGES[0])[1:] == headings(PAGES[1])[1:]
    prose, twin = (read_cells(path, "markdown") for path in PAGES)
    assert len(prose) == len(twin)
    differ = [number for number, pair in enumerate(zip(prose, twin, strict=True)) if pair[0] != pair[1]]
    assert len(differ) <= 3, [prose[number][:60] for number in differ]  # title, names of parts, names of weights


def test_they_have_the_same_code_where_no_framework_is_needed():
    code, twin = (set(read_cells(path, "code")) for path in PAGES)
    assert len(code & twin) >= 20


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_whole_model_stays_short_enough_to_be_read(path):
    """Issue and page promise: from samples to text in about 300 lines."""
    lines = [line for text in read_cells(path, "code") for line in text.splitlines() if line.strip()]
    assert 200 <= len(lines) <= 330, len(lines)


@pytest.mark.parametrize(("path", "other"), [(PAGES[0], "mindspore"), (PAGES[1], "torch")], ids=["torch", "mindspore"])
def test_a_page_imports_its_own_framework_alone(path, other):
    code = "\n".join(read_cells(path, "code"))
    assert not re.search(rf"^(import|from) {other}\b", code, re.M)
