"""A command of the lab in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from labsupport import cli


def invoke(*arguments, **how):
    """What `lab ARGUMENTS` gave: exit_code, stdout, stderr, output, exception; `how`: see CliRunner.invoke."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], **how)
