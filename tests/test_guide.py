"""The instructor's guide: its agendas follow the pages, and what it names is there."""

from __future__ import annotations

import re

import pytest

from labsupport.base.paths import ROOT
from labsupport.course import exercises
from labsupport.course.exercises import SOLUTIONS
from labsupport.course.report import lessons

GUIDE = ROOT / "site" / "instructors_guide.md"
TEXT = GUIDE.read_text(encoding="utf-8")
PAGES = {lesson.name: lesson for lesson in lessons()}
ROWS = re.findall(r"^\| \[(\S+) ([^\]]+)\]\(\.\./notebooks/(\w+)\.ipynb\) \| (\d+) \|", TEXT, re.M)


def test_an_agenda_s_rows_have_their_page_s_number_title_and_minutes():
    assert len(ROWS) == len(set(ROWS)) >= 12
    for number, title, name, minutes in ROWS:
        page = PAGES[name]
        assert (page.number, page.title, page.minutes) == (number, title, int(minutes))


def test_every_page_is_in_an_agenda_or_said_to_be_skipped():
    skipped = TEXT.partition("### What to skip")[2].partition("##")[0]
    for page in PAGES.values():
        assert page.name in {row[2] for row in ROWS} or re.search(rf"\b{page.number}\b", skipped), page.name


def test_an_agenda_leaves_time_for_questions():
    parts = re.split(r"^### ", TEXT.partition("## Agendas")[2], flags=re.M)[1:4]
    total, limits = 0, (3.5, 7, 14)  # hours, of which a quarter is for questions and breaks
    for part, hours in zip(parts, limits, strict=True):
        total += sum(map(int, re.findall(r"\.ipynb\) \| (\d+) \|", part)))
        assert total * 4 / 3 / 60 <= hours, part.splitlines()[0]


@pytest.mark.parametrize("exercise_id", sorted(set(re.findall(r"\b(\d+b?\.\d)\b", TEXT))))
def test_an_exercise_that_it_names_is_there(exercise_id):
    assert exercises.find(exercise_id, SOLUTIONS).mistakes
