"""What the terminal shows of a run, of this machine and of the exercises."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from labsupport.course import console
from labsupport.course.exercises import Exercise
from labsupport.course.outcomes import Failure, NotebookResult, Summary
from labsupport.machine.doctor import Check

RESULTS = [
    NotebookResult("01_a", "torch", "passed", "r", seconds=12.34, skips=["needs [int8]"]),
    NotebookResult("02_b", "torch", "skipped", "r", reason="needs CUDA"),
    NotebookResult("03_c", "torch", "failed", "r", failure=Failure("memory", "MemoryError", 3)),
]


def printed(show) -> str:
    """What `show` prints on a terminal without colours."""
    out = Console(file=io.StringIO(), width=200)
    show(out)
    return out.file.getvalue()


def test_each_result_leaves_its_lines():
    def show(out):
        with console.RunProgress(out) as progress:
            for result, _ in zip(RESULTS, progress.track("abc", task_id=progress.notebooks), strict=True):
                progress.start_notebook(result.notebook, 2)
                progress.start_cell({"source": ""}, 1)
                progress.report_result(result, reused=False)
            progress.report_result(RESULTS[0], reused=True)

    text = printed(show)
    for line in (
        " passed  01_a (torch): 12.3 s\n         skipped inside: needs [int8]",
        "skipped  02_b (torch): needs CUDA",
        " failed  03_c (torch): 0.0 s\n         cell 3: memory: MemoryError",
        " passed  01_a (torch): taken over from the interrupted run",
    ):
        assert line in text


def test_a_long_measurement_shows_where_it_is():
    def show(out):
        with console.BatchProgress(out) as progress:
            progress.report_batch(1, 2, "plain [batch of 8]")

    printed(show)  # no markup in the text may break it


def test_a_run_is_summarised_in_one_line():
    summary = Summary(RESULTS, ["01_a"])
    expected = (
        "1 passed, 1 failed, 1 skipped; 1 parts skipped inside notebooks; 1 taken over from the interrupted run; 12.3 s"
    )
    assert console.summarise(summary) == expected


def test_the_doctors_lines_say_what_a_missing_thing_takes():
    checks = [
        Check("a", True, "found", "x"),
        Check("b", False, "none", "buy it"),
        Check("c", False, "-", required=True),
    ]
    assert list(console.check_lines(checks)) == [
        "[green]yes[/]  a: found",
        "[yellow] no[/]  b: none",
        "     it would take: buy it",
        "[red] NO[/]  c: -",
    ]


def test_the_exercises_are_listed_with_those_solved():
    exercise = Exercise("1.1", "A title", "", len, len, [], [])
    text = printed(lambda out: out.print(console.progress_table({"01_a": [(exercise, True), (exercise, False)]})))
    assert [line.split()[-1] for line in text.splitlines()] == ["solved", "yes", "-"]


ESCAPES = ["\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J", "\x1b7", "\x1bPq\x1b\\", "\x1b[?1049h"]


@pytest.mark.parametrize("code", ESCAPES, ids=map(repr, ESCAPES))
def test_escape_codes_are_stripped_and_other_control_characters_shown(code):
    assert console.plain_text(f"a{code}b\ncé") == "ab\ncé"
    assert console.plain_text("a\rb\x08") == "a\\rb\\x08"


def test_no_name_reason_or_message_reaches_the_terminal_with_an_escape_code():
    bad = "x\x1b[2J[bold]"
    failure = Failure("other", bad, 1)
    result = NotebookResult(bad, "torch", "failed", "r", reason=bad, skips=[bad], failure=failure)

    def show(out):
        with console.RunProgress(out) as progress:
            progress.start_notebook(bad, 2)
            progress.start_cell({"source": bad}, 1)
            progress.report_result(result, reused=False)
        out.print("\n".join(console.check_lines([Check("a", False, bad, bad)])))

    text = printed(show)
    assert "\x1b[2J" not in text
    assert text.count("x[bold]") >= 5
