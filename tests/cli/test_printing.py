"""What every command prints alike: hints, and how it ends when it is stopped."""

import importlib

import pytest
from lab_command import invoke
from rich.console import Console

from labsupport.cli import printing
from labsupport.course import runner, testing


@pytest.mark.parametrize(("terminal", "printed"), [(True, "A hint.\n"), (False, "")])
def test_a_hint_is_for_a_terminal_alone(monkeypatch, capsys, terminal, printed):
    monkeypatch.setattr(printing, "errors", Console(stderr=True, force_terminal=terminal))
    printing.print_hint("A hint.")
    assert capsys.readouterr().err == printed


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
