"""`lab live`: text while somebody speaks."""

from __future__ import annotations

from typing import Annotated

import typer

from labsupport.cli.options import Engine, Why
from labsupport.cli.printing import errors, out, reporter
from labsupport.machine.stop_signals import StopSignals


def live(
    file: Annotated[str | None, typer.Argument(help="any audio or video, played; without one: the microphone")] = None,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    language: Annotated[str | None, typer.Option(help="such as en or English; detected if not given")] = None,
    step: Annotated[
        float, typer.Option(min=0.2, max=10, help="seconds of new sound before the text is made again")
    ] = 1.0,
    speed: Annotated[
        float, typer.Option(min=0.1, max=100, help="of a file: how many times as fast it is played")
    ] = 1.0,
    engine: Engine = "auto",
    why: Why = False,
) -> None:
    """Write down what is said while it is said. Printed text is stable; Ctrl-C ends it."""
    from labsupport.engine.choosing import load_for_command
    from labsupport.machine.backend import let_threads_sleep
    from labsupport.speech import audio, live_sound
    from labsupport.whisper.language import find_code
    from labsupport.whisper.live_screen import show_live

    let_threads_sleep()
    pieces = live_sound.record(step) if file is None else live_sound.play(audio.read_blocks(file), step, speed)
    with StopSignals() as stop:
        loaded = load_for_command(model, None, engine, reporter(why))
        show_live(loaded, pieces, speed if file else 1.0, language and find_code(language), out, errors, stop)
