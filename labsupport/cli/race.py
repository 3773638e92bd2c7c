"""`lab race`: ours beside the engines that people use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labsupport.cli.printing import print_hint, print_line, stoppable


def race(
    model: Annotated[str, typer.Option(help="a packaged name")] = "base",
    clips: Annotated[str, typer.Option(help="narration, jfk, pauses (10 minutes), short (16 at once); commas")] = (
        "narration,jfk,pauses,short"
    ),
    entrants: Annotated[
        str | None, typer.Option(help='names or their beginnings, with semicolons: "ours;openvino-genai int8"')
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, max=1000, help="timed transcriptions of each, in turns")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="of each entrant")] = 2,
    on_ladder: Annotated[
        bool, typer.Option("--ladder", help="ours alone: one optimisation after the other, and each left out")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="a file for a plot, .png or .svg")] = None,
    setup: Annotated[bool, typer.Option("--setup", help="make the environment of the other engines, and end")] = False,
    list_entrants: Annotated[bool, typer.Option("--list", help="the entrants, and end")] = False,
) -> None:
    """Race this lab's engines against those that people use: same sound, weights, threads and machine, in one run."""
    if setup:
        from labsupport.engine.race import environment

        with stoppable("What was fetched is in uv's cache; the next call begins the environment anew."):
            print_line(f"The race's environment is ready: {environment.make_environment(print_line).folder}")
        return
    from labsupport.engine.race import entrants as known
    from labsupport.engine.race import ladder

    chosen = known.choose(entrants, [*ladder.rungs(), *ladder.ablations()] if on_ladder else known.ENTRANTS)
    if list_entrants:
        for each in chosen:
            print_line(f"{each.name}{f' ({each.differs})' if each.differs else ''}")
        return
    from labsupport.engine.race import run, sounds

    with stoppable("The rows of the clips that are done are stored."):
        run.run(model, sounds.choose(clips), chosen, rounds, threads, print_hint, plot, on_ladder)
