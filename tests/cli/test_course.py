"""The commands: what each passes on, prints, and gives as its exit code."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from labsupport import cli
from labsupport.base.paths import ROOT
from labsupport.course import report, runner, testing
from labsupport.course.outcomes import NotebookResult, Summary
from labsupport.machine import doctor


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def lab(*arguments):
    command = [sys.executable, "-m", "labsupport", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_loads_no_framework():
    code = "import sys, labsupport.cli; print([m for m in ('torch', 'mindspore', 'matplotlib') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    shown = invoke("--help").output
    assert all(
        command in shown for command in ("run", "test", "open", "doctor", "transcribe", "serve", "report", "bench")
    )
    assert invoke("--version").output.startswith("Speech Inference Lab 0")


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run", "--modle", "base"], ["run", "--backend", "tpu"], ["transcribe"], ["open", "--port", "0"]],
)
def test_a_wrong_usage_gives_exit_code_2(arguments):
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--timeout", "nan"],
        ["run", "--timeout", "inf"],
        ["run", "--cell-timeout", "nan"],
        ["transcribe", "--max-hours", "nan", "a.wav"],
        ["transcribe", "--max-hours=-inf", "a.wav"],
        ["transcribe", "--logprob-threshold", "nan", "a.wav"],
        ["transcribe", "--no-speech-threshold", "inf", "a.wav"],
        ["transcribe", "--best-of", "1000000000", "a.wav"],
        ["transcribe", "--threads", "100000000", "a.wav"],
        ["transcribe", "--batch", "10000000000", "a.wav"],
        ["transcribe", "--max-channels", "1000000000", "a.wav"],
        ["bench", "engines", "--runs", "1000000000"],
        ["bench", "bark", "--samples", "10000000000"],
        ["bench", "bark", "--rounds", "10000000000"],
    ],
)
def test_numbers_that_are_none_or_that_no_machine_can_do_are_refused(monkeypatch, arguments):
    for module, name in ((runner, "run"), (importlib.import_module("labsupport.whisper.files"), "transcribe_files")):
        monkeypatch.setattr(module, name, lambda *values, **options: pytest.fail("it has begun"))
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Invalid value for" in done.output


@pytest.mark.parametrize("name", ["engines", "kv_caches", "bark_attention"])
def test_an_unknown_clip_is_told_before_a_model_is_loaded(monkeypatch, name):
    module = importlib.import_module(f"labsupport.benchmarks.{name}")
    monkeypatch.setattr(module, "run", lambda *arguments: pytest.fail("it has begun"))
    error = invoke("bench", name, "--clip", "nope").exception
    assert "There is no clip called 'nope'" in str(error)
    assert "jfk" in str(error)


def test_an_error_is_printed_without_a_traceback_and_gives_exit_code_1():
    done = lab("run", "99_no_such")
    assert done.returncode == 1
    assert "No notebook is called '99_no_such'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("module", ["labsupport", "labsupport.whisper.fine_tuning"])
def test_a_module_imports_nothing_of_the_folder_where_it_is_called(tmp_path, module):
    """But for what Python itself imports before it: see SECURITY.md."""
    for name in ("json", "numpy", "rich", "typer", "logging", "platformdirs", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert not (tmp_path / "executed").exists()


def test_ctrl_c_while_modules_are_imported_ends_with_130(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("labsupport", run_name="__main__")
    assert end.value.code == 130


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """runner.run replaced by one that notes its arguments and gives the statuses in `statuses`."""
    calls = {"statuses": ["passed"]}

    def run(notebooks, **options):
        calls.update(notebooks=list(notebooks), **options)
        return Summary([NotebookResult(f"0{i}_a", "torch", s, "r") for i, s in enumerate(calls["statuses"])], [])

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


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_test_gives_its_options_apart_and_the_rest_to_pytest(monkeypatch, passed, code):
    calls = []

    def run(arguments, tier, durations, say):
        calls.append((arguments, tier, durations))
        return passed

    monkeypatch.setattr(testing, "run", run)
    assert invoke("test", "--quick", "-x", "tests/test_cli.py", "-k", "data").exit_code == code
    assert invoke("test", "--durations").exit_code == code
    assert invoke("test", "--soak").exit_code == code
    named = ["-x", "tests/test_cli.py", "-k", "data"]
    assert calls == [(named, "quick", False), ([], "all", True), ([], "soak", False)]
    assert invoke("test", "--quick", "--soak").exit_code == 2


# --- bench ------------------------------------------------------------------------------------------------------------

TIMED = ("kv_caches", "graph_rewrites", "engines", "twins", "quantization", "long_audio", "serving", "bark_attention")
BENCHMARKS = (*TIMED, "bark", "invented_text")


def test_bench_lists_every_benchmark_with_a_line():
    shown = invoke("bench").output
    assert all(re.search(rf"{name} +[A-Za-z]", shown) for name in BENCHMARKS)
    modules = {path.stem for path in (ROOT / "labsupport" / "benchmarks").glob("*.py")}
    parts = {"bark_batches", "serving_article", "serving_clients"}
    assert modules - set(BENCHMARKS) == {"__init__", "worker", "recording", "noises", *parts}


@pytest.mark.parametrize("name", TIMED)
def test_bench_passes_on_model_runs_and_clip(monkeypatch, name):
    given = []
    module = importlib.import_module(f"labsupport.benchmarks.{name}")
    monkeypatch.setattr(module, "run", lambda *arguments: given.extend(arguments))
    assert invoke("bench", name, "--model", "small", "--runs", "3", "--clip", "narration").exit_code == 0
    assert {"small", 3, "narration"} <= set(given)
    assert invoke("bench", name, "--runs", "0").exit_code == 2


@pytest.mark.parametrize(("terminal", "printed"), [(True, "A hint.\n"), (False, "")])
def test_a_hint_is_for_a_terminal_alone(monkeypatch, capsys, terminal, printed):
    monkeypatch.setattr(cli, "errors", cli.Console(stderr=True, force_terminal=terminal))
    cli.print_hint("A hint.")
    assert capsys.readouterr().err == printed


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_progress_counts_the_solved_exercises():
    assert re.search(r"0 of \d+ exercises solved", invoke("progress").output)


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)])
def test_doctor_fails_only_where_a_required_thing_is_missing(monkeypatch, required, code):
    checks = [doctor.Check("a thing", False, "none", "a remedy", required)]
    monkeypatch.setattr(doctor, "examine", lambda online: checks)
    done = invoke("doctor")
    assert done.exit_code == code
    assert "it would take: a remedy" in done.output
    assert ("cannot run without: a thing" if required else "The lab can run here.") in done.output


@pytest.mark.parametrize(("here", "code"), [(True, 0), (False, 1)])
def test_doctor_answers_programs_in_json_with_the_same_exit_code(monkeypatch, here, code):
    checks = [doctor.Check("a thing", here, "x" * 500, "a remedy", required=True)]
    monkeypatch.setattr(doctor, "examine", lambda online: checks)
    done = invoke("doctor", "--json")
    assert done.exit_code == code
    found = json.loads(done.stdout)
    assert (found["ok"], found["lacking"]) == (here, [] if here else ["a thing"])
    assert found["checks"][0]["found"] == "x" * 500


@pytest.mark.parametrize(
    ("command", "module", "name", "told"),
    [
        (["run"], runner, "run", "Stopped. Two are stored."),
        (["test"], testing, "run", "Stopped. Two are stored."),
        (["bench", "engines"], importlib.import_module("labsupport.benchmarks.engines"), "run", "The rows that it had"),
    ],
)
def test_ctrl_c_says_what_is_stored(monkeypatch, command, module, name, told):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt("Two are stored.")

    monkeypatch.setattr(module, name, interrupt)
    done = invoke(*command)
    assert done.exit_code == 130
    assert told in done.output.replace("\n", " ")


def test_doctor_finds_this_environment_able_and_says_what_a_missing_thing_takes(monkeypatch):
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "The lab can run here." in done.output
    assert "an NVIDIA GPU with its driver" in done.output


# --- serve ------------------------------------------------------------------------------------------------------------


def test_serve_passes_its_limits_on(monkeypatch):
    from labsupport.serving import server

    given = {}

    def serve(load, host, port, settings, tokens):
        given.update(host=host, port=port, settings=settings, tokens=bool(tokens))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setenv("LAB_SERVE_TOKEN", "a-token-of-some-length")
    done = invoke("serve", "--host", "0.0.0.0", "--port", 9, "--batch", 4, "--queue", 3, "--timeout", 7, "--beams", 2,
                  "--max-minutes", 2, "--max-megabytes", 1)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (given["host"], given["port"], given["tokens"]) == ("0.0.0.0", 9, True)
    settings = given["settings"]
    assert (settings.batch, settings.queue, settings.beams, settings.request_seconds) == (4, 3, 2, 7.0)
    assert (settings.audio_seconds, settings.upload_bytes) == (120.0, 2**20)
    assert settings.spool_bytes >= settings.upload_bytes


@pytest.mark.parametrize(
    "arguments",
    [["--port", "70000"], ["--timeout", "nan"], ["--batch", "0"], ["--max-minutes", "inf"], ["--engine", "x"]],
)
def test_serve_refuses_what_is_no_limit(arguments):
    assert invoke("serve", *arguments).exit_code == 2
