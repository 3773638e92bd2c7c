"""What a terminal and a log show of a corpus."""

from __future__ import annotations

import io

from rich.console import Console

from labsupport.scaling.corpus import Summary
from labsupport.scaling.progress import CorpusProgress, summarise


def show(terminal):
    """What is printed for three rows, one of them failed, of which the last is written."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with CorpusProgress(console) as progress:
        progress.note("[bold]a note[/bold]")
        for done in range(1, 4):
            progress.progress(Summary(10, before=2, done=done, failed=1), written=done == 3)
    return file.getvalue()


def test_a_log_has_a_line_for_each_part_alone():
    assert show(terminal=False) == "[bold]a note[/bold]\n5 of 10 files, 1 failed\n"


def test_a_terminal_has_a_bar_that_is_gone_in_the_end():
    shown = show(terminal=True)
    assert "5/10" in shown
    assert ", 1 failed" in shown


def test_the_sum_says_what_waits_what_failed_and_how_fast_it_was():
    summary = Summary(10, before=2, done=5, failed=1, speech=600, seconds=120, interrupted=True)
    assert summarise(summary) == (
        "Stopped. 7 of 10 files have a row, 2 of them before, 1 failed; 3 wait for the next call;"
        " 10.0 minutes of sound in 2.0."
    )
    assert summarise(Summary(4, before=4)) == "4 of 4 files have a row, 4 of them before."
