"""The command line as a whole: its help, its start, wrong usage, errors."""

import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import typer
from lab_command import invoke

from labsupport import cli
from labsupport.base.paths import ROOT

COMMANDS = (
    "run", "test", "open", "setup", "update", "doctor", "transcribe", "live", "corpus", "serve", "report", "progress",
    "sophon", "race", "bench",
)  # fmt: skip


def test_help_names_every_command_in_order_and_loads_no_framework():
    code = "import sys, labsupport.cli; print([m for m in ('torch', 'mindspore', 'matplotlib') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    shown, commands = invoke("--help").output, typer.main.get_command(cli.app).commands
    assert tuple(commands) == COMMANDS
    assert re.findall(rf"^│ ({'|'.join(COMMANDS)}) ", shown, re.M) == list(COMMANDS)
    assert invoke("--version").output.startswith("Speech Inference Lab 0")


def test_help_calls_the_program_as_it_was_started_and_says_what_the_bootstrap_takes():
    command = [sys.executable, "-m", "labsupport", "--help"]
    env = {**os.environ, "LAB_PROGRAM": "./lab", "COLUMNS": "200"}
    shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    assert "Usage: ./lab [OPTIONS] COMMAND" in shown
    for option in ("--without mindspore", "--with mindspore", "--accelerator cuda", "--accelerator cpu"):
        assert option in shown


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_shell_completes_commands_and_options():
    """In a real bash, with the script that `./lab --show-completion` prints."""
    lab = f"env LAB_PROGRAM=./lab {sys.executable} -m labsupport"
    code = f"""
        lab() {{ {lab} "$@"; }}; export -f lab
        script=$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 lab --show-completion bash); eval "$script"
        COMP_WORDS=(lab transcribe --lang); COMP_CWORD=2
        COMPREPLY=($(env COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=2 _LAB_COMPLETE=complete_bash {lab}))
        echo "${{COMPREPLY[@]}}"; complete -p lab
    """
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "--language" in done.stdout.split()
    assert "_lab_completion lab" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run", "--modle", "base"], ["run", "--backend", "tpu"], ["transcribe"], ["open", "--port", "0"]],
)
def test_a_wrong_usage_gives_exit_code_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_an_error_is_printed_without_a_traceback_and_gives_exit_code_1():
    command = [sys.executable, "-m", "labsupport", "run", "99_no_such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
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
