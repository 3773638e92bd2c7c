"""`lab transcribe`: its options, its exit codes, and what a terminal, a pipe and another encoding make of it."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import odd_audio
import pytest
import typer
from fake_transcriber import FakeTranscriber
from typer.testing import CliRunner

from labsupport import cli
from labsupport.base.errors import LabError
from labsupport.base.paths import AUDIO, ROOT
from labsupport.speech.audio import Limits
from labsupport.whisper.files import Input
from labsupport.whisper.guards import Guards

JFK = str(AUDIO / "jfk.flac")
SENTENCE = "ask what you can do for your country"


def invoke(*arguments, **how):
    return CliRunner().invoke(cli.app, ["transcribe", *map(str, arguments)], **how)


@pytest.fixture
def fake(monkeypatch):
    model = FakeTranscriber()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # transcribe leaves the caller's choice, and this process, as it is
    monkeypatch.setattr("labsupport.whisper.load", lambda name, **engine: model)
    monkeypatch.setattr("labsupport.whisper.load_default", lambda name, report: model)
    return model


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.weights
def test_transcribe_prints_the_sentence():
    done = invoke(JFK)
    assert done.exit_code == 0
    assert SENTENCE in done.output


def test_without_options_the_defaults_are_those_of_the_modules(fake):
    assert invoke(JFK).output == "One. Two.\n"
    assert fake.options == {
        "language": None, "task": "transcribe", "beams": 5, "batch": 1, "vad": True, "word_timestamps": False,
        "initial_prompt": None, "hotwords": None, "guards": Guards(condition_on_previous_text=True),
    }  # fmt: skip
    defaults = inspect.signature(cli.transcribe).parameters
    limits = Limits(defaults["max_hours"].default * 3600, defaults["max_channels"].default)
    assert (limits, Input().limits) == (Limits(), Limits())


def test_whispers_spellings_are_known(fake):
    options = "--output_format json --beam_size 2 --language German --task translate --temperature 0,1 --best_of 3"
    options += " --logprob_threshold -2 --no_speech_threshold none --compression_ratio_threshold None"
    options += " --condition_on_previous_text --hotwords Ask --initial_prompt Hello. --word_timestamps --batch_size 2"
    done = invoke(JFK, *options.split(), "--no-vad")
    assert json.loads(done.stdout)[0]["segments"][1]["text"] == "Two."
    assert fake.options == {
        "language": "de", "task": "translate", "beams": 2, "batch": 2, "vad": False, "word_timestamps": True,
        "initial_prompt": "Hello.", "hotwords": "Ask", "guards": Guards((0.0, 1.0), 3, None, -2.0, None, True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "conditioned"),
    [((), True), (("--condition-on-previous-text",), True), (("--no_condition_on_previous_text",), False)],
)
def test_the_text_before_a_window_is_given_unless_it_is_refused(fake, option, conditioned):
    invoke(JFK, *option)
    assert fake.options["guards"].condition_on_previous_text == conditioned


@pytest.mark.parametrize(
    ("written", "timed", "condition", "vad"),
    [
        ("--word_timestamps True --condition_on_previous_text False", True, False, True),
        ("--word-timestamps False --condition-on-previous-text True --vad False", False, True, False),
        ("--word_timestamps False", False, True, True),
        ("--vad_filter False --word_timestamps=True", True, True, False),
        ("--vad_filter --fp16 False --highlight_words=False --carry_initial_prompt False", False, True, True),
    ],
)
def test_whispers_values_of_flags_are_no_files(fake, written, timed, condition, vad):
    assert invoke(*written.split(), JFK).exit_code == 0
    assert (fake.options["word_timestamps"], fake.options["vad"]) == (timed, vad)
    assert fake.options["guards"].condition_on_previous_text == condition


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--fp16 True", "float32"), ("--fp16", "float32"), ("--verbose False", "--timestamps"), ("--device cpu", "GPU"),
        ("--max_line_width=40", "subtitle editor"), ("--clip-timestamps 0,5", "ffmpeg"), ("--patience 1.0", "Leave it"),
        ("--compute_type int8", "float32"),
    ],
)  # fmt: skip
def test_an_option_of_whisper_that_is_not_here_is_refused_with_what_to_use(fake, option, instead):
    refused = invoke(*option.split(), JFK)
    assert refused.exit_code == 2
    shown = " ".join(refused.stderr.replace("│", " ").split())
    assert "is whisper's, and not here" in shown
    assert instead in shown
    assert fake.seconds == []


def test_what_follows_the_options_is_a_file_whatever_its_name(fake):
    assert invoke("--", "--fp16", "True").stderr.count("There is no such file") == 2


@pytest.mark.parametrize(("given", "threads"), [(("--threads", "3"), "3"), (("--threads=0",), "7"), ((), "7")])
def test_threads_are_those_asked_for(fake, monkeypatch, given, threads):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr("labsupport.machine.backend.loaded_framework", lambda: "torch")
    assert invoke(JFK, *given).exit_code == 0
    assert {os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]} == {threads}


def test_mindspore_takes_no_number_of_threads(fake, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr("labsupport.machine.backend.loaded_framework", lambda: "mindspore")
    assert "Leave --threads out" in invoke(JFK, "--threads", "2").exception.hint
    assert invoke(JFK).exit_code == 0


@pytest.mark.parametrize("width", [80, 120])
def test_help_shows_every_name_whole_at_any_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    shown = invoke("--help").output
    parameters = typer.main.get_command(cli.app).commands["transcribe"].params
    names = [name for each in parameters if not getattr(each, "hidden", False) for name in each.opts]
    assert len(names) >= 30
    assert [name for name in names if name not in shown] == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--best-of", "0"], ["--beams", "x"], ["--beams", "101"], ["--task", "sing"], ["--channel", "0"],
        ["--channels", "all"], ["--logprob-threshold", "warm"], ["--engine", "gpu"], ["--fomat", "srt"],
        ["--max-hours", "-1"],
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_before_the_work(fake, wrong):
    assert invoke(JFK, *wrong).exit_code == 2
    assert fake.seconds == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--temperature", "warm"], "no temperatures"),
        (["--language", "klingon"], "does not know the language 'klingon'"),
        (["--format", "pdf"], "no output form 'pdf'"),
        (["--output-dir", ""], "no name"),
        (["--output-dir", JFK], "not a folder"),
        (["--format", "srt,vtt"], "need a folder"),
        (["--channel", "1", "--channels", "separate"], "exclude each other"),
        ([JFK, "--format", "srt"], "cannot be one srt document"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_the_work(fake, wrong, message):
    error = invoke(JFK, *wrong).exception
    assert isinstance(error, LabError)
    assert message in error.what
    assert fake.seconds == []


@pytest.mark.parametrize("option", [(), ("--engine", "onnx"), ("--backend", "torch")])
def test_an_engine_is_chosen_only_where_none_is_asked_for(fake, monkeypatch, option):
    def fail(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr("labsupport.whisper.load_default" if option else "labsupport.whisper.load", fail)
    assert invoke(JFK, *option).output == "One. Two.\n"


def test_limits_are_lifted_by_the_option_that_the_error_names(fake, tmp_path):
    path = odd_audio.write(tmp_path, "channels_64.wav")
    refused = invoke(path, "--max-channels", "8")
    assert refused.exit_code == 1
    assert "`--max-channels 64`" in refused.stderr
    assert invoke(path, "--max-channels", "64").exit_code == 0
    assert "--max-hours 1" in invoke(JFK, "--max-hours", "0.001").stderr


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_that_fails_stops_no_other_and_is_summed_up(fake, tmp_path):
    done = invoke(tmp_path / "a.wav", JFK, tmp_path)
    assert done.exit_code == 1
    assert done.stdout == "One. Two.\n"
    assert f"1 of 3 files done; failed: {tmp_path / 'a.wav'}, {tmp_path}" in done.stderr
    assert invoke(JFK, JFK).exit_code == 0
    assert "files done" not in invoke(JFK, JFK).stderr


def test_links_that_lead_nowhere_long_names_and_unreadable_files_stop_no_other(fake, tmp_path, monkeypatch):
    odd_audio.write_links(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ["loop.wav", "loop_a.wav", odd_audio.LONG_NAME, "", "x/../x.wav"]
    done = invoke(*names, JFK, "--format", "json")
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
    done = invoke(path, JFK)
    assert (done.exit_code, done.stdout) == (1, "One. Two.\n")
    assert "may not read the file" in done.stderr


def test_standard_input_is_a_file(fake, tmp_path):
    done = invoke("-", "--output-dir", tmp_path, "-f", "txt", input=odd_audio.build("clip.m4a"))
    assert done.exit_code == 0
    assert (tmp_path / "stdin.txt").read_text() == "One.\nTwo.\n"
    assert "The file is empty" in invoke("-").stderr


@pytest.mark.parametrize(
    "name", ["-clip.wav", "-opening.wav", "-fun.mp3", "--x.flac", "-c\x1b[31m.wav", "-nothing.ogg"]
)
def test_a_name_with_a_leading_dash_is_told_from_an_option(fake, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if "nothing" not in name:
        (tmp_path / name).write_bytes(odd_audio.build("good.wav"))
    refused = invoke(name, JFK)
    assert refused.exit_code == 2
    assert "./-" in refused.stderr
    assert "\x1b" not in refused.stderr
    assert fake.seconds == []
    assert invoke("--", name).exit_code == invoke(f"./{name}").exit_code == ("nothing" in name)


@pytest.mark.parametrize("argument", ["--modle=tiny.en", "--logprob-threshold=-0.5", "--nothing"])
def test_what_is_no_file_gets_no_hint_at_one(fake, argument):
    assert "./-" not in invoke(JFK, argument).output


# --- processes -------------------------------------------------------------------------------------------------------

COMMAND = """
import os, signal, sys
from dataclasses import replace
from fake_transcriber import TWO, FakeTranscriber
import labsupport.whisper
from labsupport import cli

class Speaker(FakeTranscriber):
    def transcribe(self, samples, **options):
        if len(self.seconds) == {interrupt_after}:
            os.kill(os.getpid(), {number})
        return super().transcribe(samples, **options)

model = Speaker(replace(TWO, text="\\u00e9 \\u65e5\\u672c"))
labsupport.whisper.load_default = lambda name, report: model
sys.argv = ["lab", "transcribe", *sys.argv[1:]]
cli.main()
"""


def start_command(*arguments, interrupt_after=-1, number=2, before="", environment=None, **how) -> subprocess.Popen:
    """The command as its own process, with a model that says the same of all; what it prints are bytes.

    The signal `number` comes after so many files; `before`: lines of code that run first.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    code = before + COMMAND.format(interrupt_after=interrupt_after, number=int(number))
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **how}
    environment = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **how)


def run_command(*arguments, **how) -> subprocess.CompletedProcess:
    """`start_command`, to its end."""
    with start_command(*arguments, **how) as started:
        printed, told = started.communicate(timeout=300)
    return subprocess.CompletedProcess(started.args, started.returncode, printed, told)


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


@pytest.fixture
def copies(tmp_path):
    paths = [tmp_path / f"{number}.flac" for number in range(3)]
    for path in paths:
        path.write_bytes(Path(JFK).read_bytes())
    return [str(path) for path in paths]


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
    invoke(JFK)
    invoke(JFK, "--language", "klingon")
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
