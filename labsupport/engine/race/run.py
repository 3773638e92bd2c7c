"""`./lab race`: a contest for each sound, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from labsupport.base.errors import EngineError, LabError
from labsupport.base.paths import atomic_write, using_folder
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint
from labsupport.engine.race import contest, ladder, results
from labsupport.engine.race.entrants import GROUP, Entrant
from labsupport.engine.race.environment import SETUP, require_environment
from labsupport.engine.race.limits import find_limits
from labsupport.engine.race.results import Outcome
from labsupport.engine.race.sounds import Sound
from labsupport.machine.backend import use_threads
from labsupport.speech.text import Tokenizer

FEWEST_ROUNDS = 2  # fewer give no interval
Say = Callable[[str], None]


def run(
    model: str, sounds: Sequence[Sound], entrants: Sequence[Entrant], rounds: int, threads: int, say: Say,
    plot: Path | None = None, on_ladder: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Races the entrants over each sound; prints and records what came out.

    Args:
        say: shows a line of progress.
        on_ladder: the entrants are those of `ladder`, whose gains over each other are recorded too.
        plot: a file to write, .png or .svg; with several sounds, one for each, named after it.

    Raises:
        EngineError: the model is not packaged, there are too few rounds, or no entrant finished.
    """
    if model not in PACKAGED:
        raise EngineError(f"The race has no weights of {model!r}.", hint=f"Choose one of: {', '.join(PACKAGED)}.")
    if rounds < FEWEST_ROUNDS:
        raise EngineError(f"{rounds} rounds give no interval.", hint=f"Take {FEWEST_ROUNDS} or more.")
    use_threads(threads)
    say_what_is_missing(entrants, say)
    checkpoint = find_checkpoint(model)
    limits, tokenizer = find_limits(), Tokenizer(checkpoint.folder)
    outcomes = []
    for sound in sounds:
        held = contest.hold(checkpoint, sound, entrants, rounds, threads, say)
        outcome = results.judge(held, entrants, tokenizer, checkpoint.config, limits)
        if outcome is None:
            raise EngineError("No entrant finished.", where="\n".join(f"{n}: {e}" for n, e in held.errors.items()))
        results.record(outcome, model, checkpoint.config, limits, ladder.GROUP if on_ladder else GROUP)
        if on_ladder:
            ladder.record(outcome, model)
        parts = (
            results.time_table(outcome),
            results.cost_table(outcome),
            results.split_table(outcome, checkpoint.config, limits),
        )
        print("\n\n".join(["", f"{model}, {sound.name}, {threads} threads", *filter(None, parts)]), flush=True)
        print("", *results.remarks(outcome, threads), sep="\n", flush=True)
        if plot:
            write_plot(outcome, model, plot if len(sounds) == 1 else plot.with_stem(f"{plot.stem}-{sound.name}"))
        outcomes.append(outcome)
    return outcomes


def say_what_is_missing(entrants: Sequence[Entrant], say: Say) -> None:
    away = [each.name for each in entrants if each.home == "race"]
    try:
        if away:
            require_environment()
    except LabError as error:
        say(f"{error.what} {len(away)} of {len(entrants)} entrants need it: {SETUP}")


def write_plot(outcome: Outcome, model: str, path: Path) -> None:
    from labsupport.base import plots

    drawn = results.draw(outcome, model)
    content = plots.to_svg(drawn) if path.suffix == ".svg" else plots.to_png(drawn)
    with using_folder(path.parent, "--plot"), atomic_write(path) as part:
        part.write_bytes(content)
