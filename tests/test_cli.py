import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from labsupport import cli
from labsupport.base.paths import AUDIO, ROOT
from labsupport.course import report, runner
from labsupport.course.outcomes import Outcome, Summary
from labsupport.machine import doctor, os_info

JFK = str(AUDIO / "jfk.flac")
SENTENCE = "ask what you can do for your country"


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def lab(*arguments):
    command = [sys.executable, "-m", "labsupport", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_loads_no_framework():
    code = "import sys, labsupport.cli; print([m for m in ('torch', 'mindspore', 'matplotlib') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    told = invoke("--help").output
    for command in ("run", "test", "open", "doctor", "transcribe", "report", "progress"):
        assert command in told
    assert invoke("--version").output.startswith("Speech Inference Lab 0")


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run", "--modle", "base"], ["run", "--backend", "tpu"], ["transcribe"], ["open", "--port", "0"]],
)
def test_a_wrong_usage_gives_exit_code_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_an_error_is_told_without_a_traceback_and_gives_exit_code_1():
    done = lab("run", "99_no_such")
    assert done.returncode == 1
    assert "No notebook is called '99_no_such'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """runner.run replaced by one that notes its arguments and gives the statuses in `statuses`."""
    calls = {"statuses": ["passed"]}

    def run(notebooks, **options):
        calls.update(notebooks=list(notebooks), **options)
        return Summary([Outcome(f"0{i}_a", "torch", s, "r") for i, s in enumerate(calls["statuses"])], [])

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(report, "write", lambda: tmp_path / "report.html")
    return calls


def test_run_passes_on_what_was_asked_for_and_nothing_else(recorded):
    invoke("run")
    assert (recorded["notebooks"], recorded["parameters"], recorded["backend"]) == ([], {"fast": True}, None)
    invoke("run", "01", "--full", "--model", "base", "--clip", "narration", "--backend", "mindspore", "--timeout", "9")
    assert recorded["notebooks"] == ["01"]
    assert recorded["parameters"] == {"fast": False, "model": "base", "clip": "narration"}
    assert (recorded["backend"], recorded["timeout"]) == ("mindspore", 9)


@pytest.mark.parametrize(("statuses", "code"), [(["passed", "skipped"], 0), (["passed", "failed"], 1)])
def test_run_ends_with_the_summary_the_report_and_an_honest_exit_code(recorded, statuses, code):
    recorded["statuses"] = statuses
    done = invoke("run")
    assert done.exit_code == code
    assert "1 passed" in done.output
    assert done.output.splitlines()[-1].endswith("report.html")


def test_run_save_executes_in_place(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(runner, "find_notebooks", lambda names: [tmp_path / f"{name}.ipynb" for name in names])
    monkeypatch.setattr(runner, "execute_in_place", lambda path, cell_timeout: saved.append(path.stem))
    assert invoke("run", "01_a", "--save").exit_code == 0
    assert invoke("run", "01_a", "--save", "--model", "base").exit_code == 2
    assert saved == ["01_a"]


@pytest.fixture
def commands(monkeypatch):
    """Commands that would be started, each ending with `codes[its module]` or 0."""
    started = {"codes": {}}

    def start(command, **options):
        backend = options["env"].get("LAB_BACKEND") if command[2] == "pytest" else None
        started[(command[2], backend) if backend else command[2]] = (command[3:], options["env"])
        return subprocess.CompletedProcess(command, started["codes"].get(command[2], 0))

    monkeypatch.setattr(cli.subprocess, "run", start)
    return started


def test_test_runs_all_tests_then_the_slow_ones_then_the_notebooks_on_torch(commands, monkeypatch):
    monkeypatch.setattr(runner, "find_notebooks", lambda: [ROOT / "notebooks" / "01_a.ipynb"])
    monkeypatch.setattr(runner, "read", lambda path: {"metadata": {}})
    assert invoke("test", "-x", "-k", "data").exit_code == 0
    arguments, environment = commands["pytest", "torch"]
    slow = arguments.index(os.path.join("tests", "test_notebooks.py"))
    assert arguments[slow + 1] == os.path.join("notebooks", "01_a.ipynb")
    assert os.path.join("tests", "both_backends", "test_conv1d.py") in arguments
    assert not any("mindspore" + os.sep in argument for argument in arguments)
    assert {"--nbval", "--nbval-current-env"} <= set(arguments)
    assert arguments[-3:] == ["-x", "-k", "data"]
    assert environment["LAB_HOME"] != os.environ["LAB_HOME"]


@pytest.mark.parametrize(
    ("cores", "gigabytes", "arguments", "workers"),
    [(2, 24, [], 2), (8, 32, ["-x"], 4), (1, 24, [], 0), (2, 12, [], 0), (2, 24, ["tests/test_cli.py"], 0)],
)
def test_test_runs_as_many_processes_as_cores_and_memory_allow(
    commands, monkeypatch, cores, gigabytes, arguments, workers
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os_info, "usable_cores", lambda: cores)
    monkeypatch.setattr(os_info, "usable_memory", lambda: gigabytes * 2**30)
    invoke("test", *arguments)
    given, environment = commands["pytest", "torch"]
    assert (given[given.index("-n") + 1] if "-n" in given else "0") == str(workers)
    assert (environment.get("OMP_NUM_THREADS") == "1") == (workers > 0)


def test_test_runs_what_concerns_mindspore_in_a_process_of_its_own(commands):
    assert invoke("test", "-x").exit_code == 0
    arguments, environment = commands["pytest", "mindspore"]
    assert arguments[-3:] == [os.path.join("tests", "both_backends"), os.path.join("tests", "mindspore"), "-x"]
    assert environment["LAB_BACKEND"] == "mindspore"


def test_test_says_why_mindspore_did_not_run(commands, monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda need: "left out on purpose" if need == "mindspore" else None)
    assert "MindSpore's tests did not run: left out on purpose" in invoke("test").output
    assert ("pytest", "mindspore") not in commands


def test_test_says_which_notebook_it_cannot_compare_here_and_why(commands, monkeypatch):
    monkeypatch.setattr(runner, "find_notebooks", lambda: [ROOT / "notebooks" / "01_a.ipynb"])
    monkeypatch.setattr(runner, "read", lambda path: {"metadata": {"lab": {"needs": ["ascend"]}}})
    monkeypatch.setattr(doctor, "missing", lambda need: "needs Ascend" if need == "ascend" else None)
    assert "01_a.ipynb: needs Ascend" in invoke("test").output
    arguments, _ = commands["pytest", "torch"]
    assert "--nbval" in arguments
    assert not any(argument.endswith("ipynb") for argument in arguments)


@pytest.mark.parametrize(
    ("path", "backends"),
    [
        ("tests/test_cli.py::test_x", ["torch"]),
        ("tests/both_backends/test_conv1d.py", ["torch", "mindspore"]),
        ("tests/mindspore/test_conv1d_mindspore.py", ["mindspore"]),
    ],
)
def test_test_with_a_path_runs_it_alone_where_it_belongs(commands, path, backends):
    invoke("test", path, "-q")
    assert [key[1] for key in commands if key[0] == "pytest"] == backends
    for backend in backends:
        arguments, _ = commands["pytest", backend]
        assert arguments[-2:] == [path, "-q"]
        assert not any(argument.endswith(("test_audio.py", "ipynb")) for argument in arguments)


@pytest.mark.parametrize(("code", "arguments", "expected"), [(5, ["-k", "x"], 0), (5, [], 1), (1, ["-k", "x"], 1)])
def test_test_forgives_a_session_without_tests_only_where_the_user_chose(commands, code, arguments, expected):
    commands["codes"] = {"pytest": code}
    assert invoke("test", *arguments).exit_code == expected


@pytest.mark.parametrize("module", ["ruff", "pytest"])
def test_test_fails_when_style_or_tests_fail(commands, module):
    commands["codes"] = {module: 1}
    assert invoke("test", "tests/test_cli.py").exit_code == 1
    assert {"ruff", ("pytest", "torch")} <= set(commands)


# --- transcribe -------------------------------------------------------------------------------------------------------


def test_transcribe_prints_the_sentence():
    done = invoke("transcribe", JFK)
    assert done.exit_code == 0
    assert SENTENCE in done.output


class FakeWhisper:
    """Gives two segments, whatever it hears, and notes the options."""

    def transcribe(self, samples, **options):
        from labsupport.whisper import Segment, Transcript

        self.options = options
        segments = [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")]
        return Transcript(" One. Two.", segments, "en")


@pytest.fixture
def fake(monkeypatch):
    whisper = FakeWhisper()
    monkeypatch.setattr("labsupport.whisper.load", lambda name, **engine: whisper)
    return whisper


def test_transcribe_goes_on_after_a_file_that_cannot_be_read(fake, tmp_path):
    done = invoke("transcribe", tmp_path / "missing.wav", JFK)
    assert done.exit_code == 1
    assert "One. Two." in done.output
    assert "missing.wav" in done.output
    assert "Traceback" not in done.output


def test_transcribe_writes_every_form(fake):
    assert invoke("transcribe", JFK).output == "One. Two.\n"
    assert fake.options == {"language": None, "beams": 1}
    assert "[   1.50 -    3.00]  Two." in invoke("transcribe", JFK, "--timestamps").output
    assert "00:00:01,500 --> 00:00:03,000" in invoke("transcribe", JFK, "--format", "srt").output
    assert invoke("transcribe", JFK, "--format", "vtt").output.startswith("WEBVTT")
    told = json.loads(invoke("transcribe", JFK, "--format", "json", "--beams", "5", "--language", "en").output)
    assert "Two." in json.dumps(told)
    assert fake.options == {"language": "en", "beams": 5}


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_progress_counts_the_solved_exercises():
    assert re.search(r"0 of \d+ exercises solved", invoke("progress").output)


def test_doctor_finds_this_environment_able_and_says_what_a_missing_thing_takes(monkeypatch):
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    done = invoke("doctor")
    assert "The lab can run here." in done.output
    assert done.exit_code == 0
    assert "an NVIDIA GPU with its driver" in done.output


def test_doctor_fails_without_the_weights(monkeypatch):
    monkeypatch.setattr(doctor, "WEIGHT_PACKAGES", ("no-such-package",))
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    done = invoke("doctor")
    assert done.exit_code == 1
    assert "cannot run without: Whisper weights" in done.output


def test_doctor_does_not_take_a_shim_that_runs_nothing_for_a_python(monkeypatch, tmp_path):
    shim = tmp_path / "python3.10"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setattr(doctor, "_python310_candidates", lambda: [str(shim)])
    assert not doctor.check_python310().here
    monkeypatch.setattr(doctor, "_python310_candidates", lambda: [str(shim), sys.executable])
    assert doctor.check_python310().here


def test_doctor_asks_the_hub_only_when_told_and_not_for_long(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    assert "ConnectionError" in doctor.check_hub(seconds=2).found
    assert time.monotonic() - started < 10
    assert "model hub" not in [check.name for check in doctor.examine(online=False)]


def test_every_need_of_a_notebook_is_here_or_has_a_reason(monkeypatch):
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    for need in doctor.NEEDS:
        reason = doctor.missing(need)
        assert reason is None or (reason.startswith("needs ") and "here: " in reason)
    assert doctor.missing("torch") is None
    assert "NVIDIA" in doctor.missing("cuda")


def read_when_up(url: str, seconds: float = 60) -> str:
    """JupyterLab prints its address a moment before it listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_open_serves_this_machine_alone_and_asks_for_the_token():
    command = [sys.executable, "-m", "labsupport", "open", "--no-browser", "--allow-root", "--port", "18889"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(found for line in server.stderr if (found := re.search(r"http://\S+token=\w+", line)))[0]
        assert address.startswith("http://127.0.0.1:")
        assert "/lab/tree/00_start_here.ipynb" in address
        site, token = re.match(r"(http://[^/]+)/.*token=(\w+)", address).groups()
        assert "00_start_here.ipynb" in read_when_up(f"{site}/api/contents?token={token}")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{site}/api/contents", timeout=60)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
