"""`lab transcribe` stopped: by a signal, by a reader that goes, by a full disk, by a terminal that is closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import odd_audio
import pytest
from lab_command import invoke
from transcribe_process import run_command, start_command

from labsupport.base.paths import AUDIO, ROOT

JFK = str(AUDIO / "jfk.flac")

STOPS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (getattr(signal, "SIGHUP", 1), 129)]
)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@STOPS
def test_a_signal_ends_with_its_code_and_it_is_said_what_is_done(tmp_path, copies, number, code):
    done = run_command(*copies, "--format", "json", interrupt_after=1, number=number)
    assert done.returncode == code
    assert [document["file"] for document in json.loads(done.stdout)] == copies[:1]
    assert f"Stopped. 1 of 3 files done: {copies[0]}; not done: {copies[1]}, {copies[2]}".encode() in done.stderr
    assert b"Traceback" not in done.stderr
    done = run_command(*copies, "-o", tmp_path / "out", "-f", "srt,vtt", interrupt_after=1, number=number)
    assert done.returncode == code
    assert sorted(os.listdir(tmp_path / "out")) == ["0.srt", "0.vtt"]


INTERRUPT_WRITES = """
import os, pathlib
from labsupport.whisper import outputs
write_bytes, write_out = pathlib.Path.write_bytes, outputs.write_out
def write_halves(path, content):
    write_bytes(path, content[:9])
    os.kill(os.getpid(), {number})
    write_bytes(path, content)
def print_halves(text):
    write_out(text[:9])
    os.kill(os.getpid(), {number})
    write_out(text[9:])
pathlib.Path.write_bytes, outputs.write_out = write_halves, print_halves
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
@STOPS
def test_a_signal_in_the_middle_of_a_write_waits_for_its_end(tmp_path, copies, number, code):
    before = INTERRUPT_WRITES.format(number=int(number))
    done = run_command(*copies, "--output-dir", tmp_path / "out", "-f", "txt,json", before=before)
    assert (done.returncode, b"Stopped. 1 of 3 files done" in done.stderr) == (code, True)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.json", "0.txt"]
    assert json.loads((tmp_path / "out" / "0.json").read_text())["file"] == copies[0]
    done = run_command(*copies, before=before)
    assert (done.returncode, done.stdout) == (code, "\u00e9 \u65e5\u672c\n".encode())
    done = run_command(*copies, "--format", "json", before=before)
    assert (done.returncode, json.loads(done.stdout)) == (code, [])  # it came while the array was begun


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_a_hang_up_is_ignored_under_nohup(copies):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = run_command(*copies, "--format", "json", interrupt_after=1, number=signal.SIGHUP, before=ignoring)
    assert (done.returncode, len(json.loads(done.stdout))) == (0, 3)


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_the_command_leaves_the_handlers_of_its_process_as_they_were(fake):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    invoke("transcribe", JFK)
    invoke("transcribe", JFK, "--language", "klingon")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_a_signal_at_any_time_leaves_a_whole_output(copies, tmp_path, kill_times):
    """With a real model; the moments are random, and told where one fails."""
    command = [sys.executable, "-m", "labsupport", "transcribe", "--model", "tiny.en", *copies]
    for turn, seconds in enumerate(kill_times(5)):
        number, folder = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[turn % 3], tmp_path / str(turn)
        code = 128 + number
        how = ["-o", str(folder), "-f", "json,srt"] if turn % 2 else ["-f", "json"]
        started = subprocess.Popen([*command, *how], stdout=-1, stderr=-1, text=True, cwd=ROOT)
        time.sleep(0.6 + seconds)
        started.send_signal(number)
        printed, told = started.communicate(timeout=60)
        at = (signal.Signals(number).name, seconds, told)
        assert started.returncode in (code, 0, -number), at  # 0: all was done; -number: before the command began
        assert "Traceback" not in told, at
        stored = sorted(os.listdir(folder)) if folder.exists() else []
        assert not [name for name in stored if name.endswith(".part")], at
        done = len([json.loads((folder / name).read_text()) for name in stored if name.endswith(".json")])
        done += len(json.loads(printed or "[]"))
        begun = told or number != signal.SIGINT  # Ctrl-C while Python imports is 130 without a word
        assert started.returncode != code or f"Stopped. {done} of 3 files done" in told or not (begun or done), at


def test_a_reader_that_has_gone_ends_the_work_as_other_programs_do(copies):
    read_end, write_end = os.pipe()
    os.close(read_end)
    for form in ("text", "json"):
        done = run_command(*copies, "--format", form, stdout=write_end)
        assert done.returncode == 141
        assert b"Nobody reads the output any more. 0 of 3 files done; not done: " in done.stderr
        assert not any(text in done.stderr for text in (b"Traceback", b"Exception", b"Error"))
    os.close(write_end)


@pytest.mark.parametrize("form", ["text", "json"])
def test_of_a_reader_that_goes_after_a_file_it_is_said_what_it_got(copies, form):
    """As `head -1` goes; the second file is standard input, and comes when the reader has gone."""
    with start_command(copies[0], "-", copies[1], "--format", form, stdin=subprocess.PIPE) as started:
        while b"standard input:" not in started.stderr.readline():
            pass
        assert "\u65e5".encode() in started.stdout.read1()
        started.stdout.close()
        started.stdin.write(odd_audio.build("good.wav"))
        started.stdin.close()
        told = started.stderr.read().decode()
    assert started.returncode == 141
    assert told == (
        f"Nobody reads the output any more. 1 of 3 files done: {copies[0]}; not done: standard input, {copies[1]}\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_ends_the_work_with_an_error_and_says_what_is_done(copies, form):
    with open("/dev/full", "wb") as full:
        done = run_command(*copies, "--format", form, stdout=full)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Stopped. 0 of 3 files done; not done: " in done.stderr
    assert b"Exception" not in done.stderr


def test_errors_that_nobody_reads_stop_nothing(copies, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run_command("missing.wav", *copies, "-f", "json", stderr=write_end)
    os.close(write_end)
    assert (done.returncode, len(json.loads(done.stdout))) == (1, 3)


@pytest.mark.parametrize("output", [["-o", "out", "-f", "srt"], ["-f", "json"]])
def test_a_terminal_that_is_closed_ends_the_work_as_a_hang_up(copies, tmp_path, output):
    ours, theirs = pytest.importorskip("pty", reason="no terminals of POSIX here").openpty()
    how = {"stdin": subprocess.PIPE, "stdout": theirs, "stderr": theirs, "cwd": tmp_path}
    with start_command(copies[0], "-", *output, **how) as started:
        os.close(theirs)
        shown = b""
        while b"standard input:" not in shown:
            shown += os.read(ours, 1 << 16)
        os.close(ours)
        started.send_signal(signal.SIGHUP)
    assert started.returncode == 129
    assert output[0] != "-o" or os.listdir(tmp_path / "out") == ["0.srt"]
