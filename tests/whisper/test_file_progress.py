"""What a terminal shows while files are worked on."""

from __future__ import annotations

import io

from rich.console import Console

from labsupport.base.errors import AudioError
from labsupport.whisper.file_progress import TerminalWatcher
from labsupport.whisper.files import Outcome


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
    watcher.summarise(3, Outcome(["a", "b", "c"]))
    watcher.summarise(1, Outcome([], ["a"]))
    assert screen.getvalue() == ""
    watcher.summarise(3, Outcome(["b"], ["a\x1b.wav", "-"]))
    assert screen.getvalue() == "1 of 3 files done; failed: a\\x1b.wav, standard input\n"


def test_after_ctrl_c_it_is_told_what_is_done():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.summarise(4, Outcome(["a.wav", "b.wav"], ["c.wav"], interrupted=True))
    watcher.summarise(1, Outcome(interrupted=True))
    assert screen.getvalue() == (
        "Stopped. 2 of 4 files done: a.wav, b.wav; failed: c.wav\nStopped. 0 of 1 files done\n"
    )
