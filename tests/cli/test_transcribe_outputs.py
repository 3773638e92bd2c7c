"""`lab transcribe`: texts and errors of many files, and what a terminal, a pipe and another encoding make of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import odd_audio
import pytest
from lab_command import invoke
from transcribe_process import run_command

from labsupport.base.paths import AUDIO

JFK = str(AUDIO / "jfk.flac")


SENTENCE = "ask what you can do for your country"


@pytest.mark.slow
@pytest.mark.weights
def test_transcribe_prints_the_sentence():
    done = invoke("transcribe", JFK)
    assert done.exit_code == 0
    assert SENTENCE in done.output


def test_a_file_that_fails_stops_no_other_and_is_summed_up(fake, tmp_path):
    done = invoke("transcribe", tmp_path / "a.wav", JFK, tmp_path)
    assert done.exit_code == 1
    assert done.stdout == "One. Two.\n"
    assert f"1 of 3 files done; failed: {tmp_path / 'a.wav'}, {tmp_path}" in done.stderr
    assert invoke("transcribe", JFK, JFK).exit_code == 0
    assert "files done" not in invoke("transcribe", JFK, JFK).stderr


def test_links_that_lead_nowhere_long_names_and_unreadable_files_stop_no_other(fake, tmp_path, monkeypatch):
    odd_audio.write_links(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ["loop.wav", "loop_a.wav", odd_audio.LONG_NAME, "", "x/../x.wav"]
    done = invoke("transcribe", *names, JFK, "--format", "json")
    assert done.exit_code == 1
    assert [document["file"] for document in json.loads(done.stdout)] == [JFK]
    assert done.stderr.count("Error:") == done.stderr.count("where:") == len(names)
    assert "leads back to itself" in done.stderr
    assert "longer than this system allows" in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are those of POSIX")
def test_a_file_without_read_permission_stops_no_other(fake, tmp_path, monkeypatch):
    path = odd_audio.write(tmp_path, "unreadable.wav")
    if os.geteuid() == 0:  # a superuser may read it all the same
        opened = Path.open

        def open_as_user(file, *how):
            if file == path:
                raise PermissionError(13, "Permission denied", str(file))
            return opened(file, *how)

        monkeypatch.setattr(Path, "open", open_as_user)
    done = invoke("transcribe", path, JFK)
    assert (done.exit_code, done.stdout) == (1, "One. Two.\n")
    assert "may not read the file" in done.stderr


def test_standard_input_is_a_file(fake, tmp_path):
    done = invoke("transcribe", "-", "--output-dir", tmp_path, "-f", "txt", input=odd_audio.build("clip.m4a"))
    assert done.exit_code == 0
    assert (tmp_path / "stdin.txt").read_text() == "One.\nTwo.\n"
    assert "The file is empty" in invoke("transcribe", "-").stderr


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"\xe9 \u65e5\u672c"),
        ({"PYTHONIOENCODING": "cp1252"}, b"\xe9 \\u65e5\\u672c"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, rb"\xe9 \u65e5\u672c"),
    ],
)
def test_a_terminal_without_utf_8_shows_escapes(tmp_path, environment, printed):
    files = [tmp_path / "missing \u65e5\u672c \x1b[31m.wav", JFK]
    done = run_command(*files, environment=environment)
    assert (done.returncode, done.stdout.strip()) == (1, printed)
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stderr


def test_names_that_are_no_utf_8_are_read_written_and_told(tmp_path):
    for name in (odd_audio.BYTE_NAME, "a\nb.wav", odd_audio.ODD_NAME):
        (tmp_path / name).write_bytes(odd_audio.build("good.wav"))
    names = [os.fsencode(name) for name in os.listdir(tmp_path)]
    done = run_command(*map(os.fsdecode, names), odd_audio.BYTE_MISSING, "-o", "out", "-f", "json", cwd=tmp_path)
    assert done.returncode == 1
    stems = {name.removesuffix(b".wav") for name in names}
    assert {name.removesuffix(b".json") for name in os.listdir(os.fsencode(tmp_path / "out"))} == stems
    assert rb"failed: missing_\udce9.wav" in done.stderr


def test_a_terminal_is_no_standard_input_and_sees_a_bar():
    ours, theirs = pytest.importorskip("pty", reason="no terminals of POSIX here").openpty()
    done = run_command("-", JFK, stdin=theirs, stderr=theirs, environment={"TERM": "xterm", "COLUMNS": "200"})
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1
    assert "Standard input is a terminal" in shown
    assert re.search(r"reading .*jfk\.flac .*100%", shown)
    assert done.stdout.decode().strip() == "\u00e9 \u65e5\u672c"
