"""A page's quiz: a few questions with their answers explained, out of `notebooks/quizzes/NN_name.toml`."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, read_toml
from labsupport.base.plots import is_static_page

QUIZZES = NOTEBOOKS / "quizzes"


@dataclass(frozen=True)
class Question:
    """`right` is one of the options; `why` explains it, and what is wrong with the others."""

    text: str
    options: tuple[str, ...]
    right: str
    why: str


def load(page: str, folder: Path = QUIZZES) -> list[Question]:
    """The questions of a page, by its number or name.

    Raises:
        CourseError: there is no such quiz.
    """
    found = [path for path in folder.glob("*.toml") if path.stem == page or path.stem.startswith(f"{page}_")]
    if len(found) != 1:
        raise CourseError(f"There is no quiz {page!r}.", where=folder, hint="give the number in the page's title")
    return [Question(**{**each, "options": tuple(each["options"])}) for each in read_toml(found[0])["question"]]


def show(page: str) -> None:
    """Shows the questions, each with its options to choose from; on a static page with its answer to unfold."""
    from IPython.display import HTML, display

    questions = load(page)
    display(HTML("".join(map(to_html, questions))) if is_static_page() else make_form(questions))


def to_html(question: Question) -> str:
    """The question as a list of options, and the answer behind a line that unfolds it."""
    options = "".join(f"<li>{html.escape(option)}</li>" for option in question.options)
    answer = f"<b>{html.escape(question.right)}</b> {html.escape(question.why)}"
    unfolded = f"<details><summary>Answer</summary><p>{answer}</p></details>"
    return f"<p><b>{html.escape(question.text)}</b></p><ul>{options}</ul>{unfolded}"


def make_form(questions: list[Question]):
    """An ipywidgets box: for each question its options, and what the chosen one deserves."""
    import ipywidgets

    return ipywidgets.VBox([make_choice(question) for question in questions])


def make_choice(question: Question):
    """One question: the options none of which is chosen yet, and a line that says whether the chosen one is right."""
    import ipywidgets

    wide = ipywidgets.Layout(width="auto")
    text = ipywidgets.HTML(f"<b>{html.escape(question.text)}</b>")
    options = ipywidgets.RadioButtons(options=question.options, value=None, layout=wide)
    verdict = ipywidgets.HTML()

    def judge(change: dict) -> None:
        if change["new"] == question.right:
            verdict.value = f"<b>Right.</b> {html.escape(question.why)}"
        else:
            verdict.value = "<b>Not quite.</b> Choose again."

    options.observe(judge, "value")
    return ipywidgets.VBox([text, options, verdict])
