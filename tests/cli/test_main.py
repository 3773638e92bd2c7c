"""The command line as a whole: its help, its start, wrong usage, errors."""

import os
import re
import runpy
import subprocess
import sys

import pytest
import typer
from lab_command import invoke

from labsupport import cli
from labsupport.base.paths import ROOT

COMMANDS = (
    "run", "test", "open", "doctor", "transcribe", "live", "corpus", "serve", "report", "progress", "sophon", "race",
    "bench",
)  # fmt: skip


def test_help_names_every_command_in_order_and_loads_no_framework():
    code = "import sys, labsupport.cli; print([m for m in ('torch', 'mindspore', 'matplotlib') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    shown, commands = invoke("--help").output, typer.main.get_command(cli.app).commands
    assert tuple(commands) == COMMANDS
    assert re.findall(rf"^│ ({'|'.join(COMMANDS)}) ", shown, re.M) == list(COMMANDS)
    assert invoke("--version").output.startswith("Speech Inference Lab 0")


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
