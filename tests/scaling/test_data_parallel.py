"""Files divided between processes give the rows that one process gives."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict

import pytest

from labsupport.base.paths import AUDIO
from labsupport.scaling.data_parallel import time_shares, transcribe_apart
from labsupport.scaling.process_group import run_together
from labsupport.scaling.worker import Settings, Worker

pytestmark = [pytest.mark.slow, pytest.mark.weights]
SETTINGS = Settings("tiny.en", engine="torch", beams=1)
SAME = ("text", "segments", "language", "duration", "error", "error_kind", "sha256", "options")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Speech, a file that cannot be read, speech; so the shares of two processes differ in length."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(AUDIO / "jfk.flac", folder / "a.flac")
    (folder / "bad.wav").write_bytes(b"no sound")
    shutil.copy(AUDIO / "jfk.flac", folder / "c.flac")
    return [str(folder / name) for name in ("a.flac", "bad.wav", "c.flac")]


def test_two_processes_give_what_one_gives(files, monkeypatch):
    for name in ("use_threads", "let_threads_sleep"):  # which change the environment of a process
        monkeypatch.setattr(f"labsupport.machine.backend.{name}", lambda *arguments: None)
    here = Worker(SETTINGS)
    one, two = [here.make_row(file) for file in files], transcribe_apart(files, SETTINGS, 2)
    assert [{name: row[name] for name in SAME} for row in two] == [{name: row[name] for name in SAME} for row in one]
    assert [row["error_kind"] for row in two] == [None, "NoAudio", None]
    assert "your country" in two[2]["text"]
    assert len({row["worker"] for row in one}) == 1
    assert [row["worker"] == two[0]["worker"] for row in two] == [True, True, False]  # two files, and one
    assert str(os.getpid()) not in {row["worker"].rpartition(":")[2] for row in two}


def test_fewer_files_than_processes_are_each_transcribed_once(files):
    rows = transcribe_apart(files[1:2], SETTINGS, 2)
    assert [row["error_kind"] for row in rows] == ["NoAudio"]


def test_the_shares_take_turns_with_all_files(files):
    pairs = run_together(f"{time_shares.__module__}:time_shares", 2, [files[1]] * 4, asdict(SETTINGS), 3)
    assert [len(each) for each in pairs] == [3, 3]
    assert all(seconds > 0 for each in pairs for pair in each for seconds in pair)
