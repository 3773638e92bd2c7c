"""What a terminal shows while files are worked on."""

from __future__ import annotations

import io

from rich.console import Console

from labsupport.base.errors import AudioError
from labsupport.whisper.file_progress import TerminalWatcher
from labsupport.whisper.files import Outcome
from labsupport.whisper.outputs import ScreenError


def make_watcher(terminal: bool):
    screen, errors = io.StringIO(), []
    return TerminalWatcher(Console(file=screen, force_terminal=terminal, width=100), errors.append), screen, errors


def test_a_terminal_sees_a_bar_with_the_file_and_what_is_done_of_it():
    watcher, screen, _ = make_watcher(terminal=True)
    watcher.progress("talk [1] :smile:.wav", "reading", 30, None)
    watcher.progress("talk [1] :smile:.wav", "reading", 60, 120)
    assert "reading talk [1] :smile:.wav" in screen.getvalue()
    watcher.progress("talk [1] :smile:.wav", "transcribing", 30, 120)
    assert watcher.bar.tasks[0].percentage == 25
    watcher.progress("talk [1] :smile:.wav", "transcribing", 120, 120)
    assert "transcribing talk [1] :smile:.wav" in screen.getvalue()
    assert watcher.bar is None


def test_a_pipe_sees_no_bar():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.progress("talk.wav", "reading", 30, 120)
    watcher.note("language: en (0.98), detected")
    assert screen.getvalue() == "language: en (0.98), detected\n"


def test_an_error_ends_the_bar_and_is_told():
    watcher, _, errors = make_watcher(terminal=True)
    watcher.progress("talk.wav", "reading", 30, 120)
    watcher.fail(AudioError("Broken."))
    assert watcher.bar is None
    assert [str(error) for error in errors] == ["Broken."]


def test_several_files_are_summed_up_where_one_failed():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.summarise(["a", "b", "c"], Outcome(["a", "b", "c"]))
    watcher.summarise(["a"], Outcome([], ["a"]))
    assert screen.getvalue() == ""
    watcher.summarise(["a\x1b.wav", "b", "-"], Outcome(["b"], ["a\x1b.wav", "-"]))
    assert screen.getvalue() == "1 of 3 files done; failed: a\\x1b.wav, standard input\n"


def test_after_ctrl_c_it_is_said_what_is_done_and_what_is_not():
    watcher, screen, _ = make_watcher(terminal=False)
    files = ["a.wav", "b.wav", "c.wav", "d.wav"]
    watcher.summarise(files, Outcome(["a.wav", "b.wav"], ["c.wav"], interrupted=True))
    watcher.summarise(["a.wav"], Outcome(interrupted=True))
    assert screen.getvalue() == (
        "Stopped. 2 of 4 files done: a.wav, b.wav; failed: c.wav; not done: d.wav\n"
        "Stopped. 0 of 1 files done; not done: a.wav\n"
    )


def test_of_many_files_the_first_are_named():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.console.width = 200
    watcher.summarise([f"{number}.wav" for number in range(9)], Outcome(["0.wav"], interrupted=True))
    left = "1.wav, 2.wav, 3.wav, 4.wav, 5.wav, and 3 more"
    assert screen.getvalue() == f"Stopped. 1 of 9 files done: 0.wav; not done: {left}\n"


def test_where_nothing_more_can_be_printed_it_is_said_why():
    watcher, screen, errors = make_watcher(terminal=False)
    watcher.summarise(["a", "b"], Outcome(["a"], lost=BrokenPipeError()))
    watcher.summarise(["a", "b"], Outcome(["a"], lost=ScreenError("The disk is full.")))
    assert screen.getvalue() == (
        "Nobody reads the output any more. 1 of 2 files done: a; not done: b\n"
        "Stopped. 1 of 2 files done: a; not done: b\n"
    )
    assert [str(error) for error in errors] == ["The disk is full."]
