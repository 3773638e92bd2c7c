"""The commands of the lab. Each is thin: what it does lies in the module it calls."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from labsupport import __version__
from labsupport.base.errors import LabError
from labsupport.base.masking import MaskedStream
from labsupport.cli import bench, corpus, course, doctor, live, race, serve, sophon, transcribe
from labsupport.cli.file_command import SPELLED_AS_WHISPERS, FileCommand
from labsupport.cli.printing import out, print_error

# What `./lab` itself understands, before a command: it makes the environment that this program runs in.
BEFORE = (
    "`./lab` takes these before a command, and remembers them: --without mindspore, --with mindspore, "
    "--accelerator cuda, --accelerator cpu."
)

app = typer.Typer(
    help="Make Whisper and Bark fast and small, and measure every step on your own machine.",
    no_args_is_help=True,
    epilog=BEFORE,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs a command. A LabError is printed without a traceback, exit code 1; a wrong usage gives exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows escapes, and no traceback
    if sys.stderr:
        sys.stderr = MaskedStream(sys.stderr)  # libraries log there, tracebacks end there
    try:
        app(prog_name=program_name())
    except LabError as error:
        print_error(error)
        sys.exit(1)


def program_name() -> str | None:
    """What the help calls this program: `./lab`, if that started it. A shell's completion goes by the last part."""
    completes = "_LAB_COMPLETE" in os.environ or any("-completion" in argument for argument in sys.argv[1:2])
    return "lab" if completes else os.environ.get("LAB_PROGRAM")


def print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"Speech Inference Lab {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def lab(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True)] = False,
) -> None:
    """Make Whisper and Bark fast and small, and measure every step on your own machine."""


# In the order of `lab --help`.
app.command()(course.run)
app.command(context_settings=course.FURTHER_ARGUMENTS)(course.test)
app.command(name="open")(course.open_lab)
app.command()(course.setup)
app.command()(course.update)
app.command()(doctor.doctor)
app.command(cls=FileCommand, context_settings=SPELLED_AS_WHISPERS)(transcribe.transcribe)
app.command()(live.live)
app.command()(corpus.corpus)
app.command()(serve.serve)
app.command()(course.report)
app.command()(course.progress)
app.command()(sophon.sophon)
app.command()(race.race)
app.add_typer(bench.app, name="bench")
