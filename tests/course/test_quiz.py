"""Quizzes: every page has one, a question has one right answer, and both forms of it show what they must."""

from __future__ import annotations

import pytest

from labsupport.base.errors import CourseError
from labsupport.course import notebook as notebook_format
from labsupport.course import quiz, runner
from labsupport.course.quiz import Question

PAGES = sorted(path.stem for path in quiz.QUIZZES.glob("*.toml"))
ALL = [question for page in PAGES for question in quiz.load(page)]
QUESTION = Question("Is 1 < 2?", ("no", "yes", "never"), "yes", "One is less & two is more.")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_three_to_five_questions_with_one_right_answer_each(page):
    questions = quiz.load(page)
    assert 3 <= len(questions) <= 5
    for each in questions:
        assert each.options.count(each.right) == 1, each.text
        assert 3 <= len(set(each.options)) == len(each.options), each.text
        assert each.text.endswith("?"), each.text
        assert each.why.endswith("."), each.text


def test_neither_place_nor_length_gives_the_right_answer_away():
    places = [each.options.index(each.right) for each in ALL]
    assert max(places.count(place) for place in set(places)) <= len(ALL) / 2
    longest = [each.right == max(each.options, key=len) for each in ALL]
    assert sum(longest) <= len(ALL) / 2


@pytest.mark.parametrize("path", runner.find_notebooks(), ids=lambda path: path.stem)
def test_each_notebook_shows_a_quiz_of_its_own_or_its_twin_s_and_what_is_stored_is_that(path):
    cells = runner.read(path)["cells"]
    sources = [notebook_format.joined(cell["source"]) for cell in cells]
    (number,) = [place for place, source in enumerate(sources) if "quiz.show(" in source]
    page = sources[number].partition('show("')[2].partition('"')[0]
    assert page == path.stem.partition("_")[0].replace("00c", "00b")
    (output,) = cells[number]["outputs"]
    assert notebook_format.joined(output["data"]["text/html"]) == "".join(map(quiz.to_html, quiz.load(page)))


def test_an_unknown_quiz_is_named():
    with pytest.raises(CourseError, match="no quiz '99'"):
        quiz.load("99")


def test_a_number_names_one_page_alone():
    assert quiz.load("00") == quiz.load("00_start_here") != quiz.load("00b")


def test_a_static_page_hides_the_answer_behind_a_line_and_shows_every_option():
    page = quiz.to_html(QUESTION)
    before, _, after = page.partition("<details>")
    assert "Is 1 &lt; 2?" in before
    assert [option in before for option in ("<li>no</li>", "<li>yes</li>", "<li>never</li>")] == [True] * 3
    assert "One is less &amp; two is more." in after
    assert "One is less" not in before


def test_a_choice_is_judged_and_explained_only_when_it_is_right():
    _, options, verdict = quiz.make_choice(QUESTION).children
    assert (options.value, verdict.value) == (None, "")
    options.value = "no"
    assert "Not quite" in verdict.value
    assert "One is less" not in verdict.value
    options.value = "yes"
    assert "Right" in verdict.value
    assert "One is less &amp; two is more." in verdict.value


@pytest.mark.parametrize("static", [True, False])
def test_show_takes_the_form_that_the_page_can_have(monkeypatch, static):
    shown = []
    monkeypatch.setattr(quiz, "is_static_page", lambda: static)
    monkeypatch.setattr("IPython.display.display", shown.append)
    quiz.show("00")
    assert type(shown[0]).__name__ == ("HTML" if static else "VBox")
