"""What a terminal shows while files are worked on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from labsupport.base.errors import AudioError
from labsupport.whisper.file_progress import TerminalWatcher, explain


def make_watcher(terminal: bool):
    screen, errors = io.StringIO(), []
    return TerminalWatcher(Console(file=screen, force_terminal=terminal, width=100), errors.append), screen, errors


def test_a_terminal_sees_a_bar_with_the_file_and_what_is_done_of_it():
    watcher, screen, _ = make_watcher(terminal=True)
    watcher.progress("talk [1].wav", 30, 120)
    watcher.progress("talk [1].wav", 120, 120)
    assert "talk [1].wav" in screen.getvalue()
    assert watcher.bar is None


def test_a_pipe_sees_no_bar():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.progress("talk.wav", 30, 120)
    watcher.note("language: en (0.98), detected")
    assert screen.getvalue() == "language: en (0.98), detected\n"


def test_an_error_ends_the_bar_and_is_told():
    watcher, _, errors = make_watcher(terminal=True)
    watcher.progress("talk.wav", 30, 120)
    watcher.fail(AudioError("Broken."), "talk.wav")
    assert watcher.bar is None
    assert [str(error) for error in errors] == ["Broken."]


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError(), "too little memory"), (OSError(28, "No space left on device"), "No space left")],
)
def test_a_system_s_error_is_explained_and_names_the_file(error, message):
    assert message in str(explain(error, "talk.wav"))
    assert "talk.wav" in str(explain(error, "talk.wav"))


def test_several_files_are_summed_up_where_one_failed():
    watcher, screen, _ = make_watcher(terminal=False)
    watcher.summarise(3, [])
    watcher.summarise(1, ["a.wav"])
    assert screen.getvalue() == ""
    watcher.summarise(3, ["a\x1b.wav", "-"])
    assert screen.getvalue() == "1 of 3 files done; failed: a\\x1b.wav, standard input\n"
