"""What the options of several commands have in common: a check, panels of the help, and whole options."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import typer


def check_finite(value: float) -> float:
    """An option's number; NaN, which no limit stops, and infinity are refused."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of this kind.")
    return value


def panel(name: str) -> dict[str, Any]:
    return {"rich_help_panel": name}


MODEL, OUTPUT, DECODING, READING = panel("Model"), panel("Output"), panel("Decoding"), panel("Reading")
Backend = Annotated[Literal["torch", "mindspore"] | None, typer.Option(help="the framework to compute with", **MODEL)]
Engine = Annotated[
    Literal["auto", "fast", "onnx", "torch", "mindspore"],
    typer.Option(help="auto: the fastest that is known; fast: the course's best, on CPUs; onnx: article B's", **MODEL),
]
Why = Annotated[bool, typer.Option("--why", "-v", help="say which engine was chosen, and why", **MODEL)]
MaxHours = Annotated[
    float, typer.Option(metavar="N", min=0, callback=check_finite, help="refuse what lasts longer", **READING)
]
