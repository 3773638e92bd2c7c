"""`lab transcribe`: files to text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from labsupport.base.errors import MachineError
from labsupport.cli.options import DECODING, MODEL, OUTPUT, READING, Backend, Engine, MaxHours, Why, check_finite, panel
from labsupport.cli.printing import errors, print_error, reporter
from labsupport.machine.stop_signals import StopSignals

if TYPE_CHECKING:
    from labsupport.whisper.files import Outcome

MOST_DRAWS = 1000  # texts at one temperature
GUARDS = panel("Guards against invented text")


def check_draws(value: int) -> int:
    """So many texts at a temperature as can be of use; a range beside the name would not fit 80 columns."""
    if value > MOST_DRAWS:
        raise typer.BadParameter(f"{value} is more than {MOST_DRAWS}.")
    return value


def parse_threshold(given: str | float) -> float | None:
    """A number, which a default is already; or None for "none"."""
    try:
        return None if str(given).lower() == "none" else check_finite(float(given))
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no number, and not none.") from None


def threshold(text: str):
    """A guard's limit, an option that "none" turns off."""
    return typer.Option(parser=parse_threshold, metavar="N|none", help=text, **GUARDS)


def transcribe(
    files: Annotated[list[str], typer.Argument(help="any audio or video; - is standard input")],
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id", **MODEL)] = None,
    backend: Backend = None,
    engine: Engine = "auto",
    why: Why = False,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=4096, help="CPU threads; 0: by the machine", **MODEL),
    ] = 0,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            "--output-format",
            metavar="FORM",
            **OUTPUT,
            help="text, srt, vtt, tsv, json; several, or all, with --output-dir",
        ),
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output-dir",
            "-o",
            metavar="FOLDER",
            help="write FILE.txt and so on there: all forms, or those of -f",
            **OUTPUT,
        ),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="text: each segment on a line, after its time", **OUTPUT)
    ] = False,
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="json, vtt: the time of each word", **OUTPUT)
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="write a journal; after a kill, the same call goes on", **OUTPUT)
    ] = False,
    language: Annotated[
        str | None, typer.Option(help="such as en or English; detected if not given", **DECODING)
    ] = None,
    task: Annotated[
        Literal["transcribe", "translate"],
        typer.Option(metavar="TASK", help="transcribe, or translate into English", **DECODING),
    ] = "transcribe",
    beams: Annotated[
        int,
        typer.Option(
            "--beams", "--beam-size", metavar="N", min=1, max=100, help="1 is greedy: quicker, less exact", **DECODING
        ),
    ] = 5,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            "--batch-size",
            metavar="N",
            min=1,
            max=10_000,
            help="windows of 30 s at once; rougher times",
            **DECODING,
        ),
    ] = 1,
    vad: Annotated[
        bool, typer.Option("--vad/--no-vad", help="decode only where a voice detector finds speech", **DECODING)
    ] = True,
    initial_prompt: Annotated[
        str | None, typer.Option(help="what might have been said before: names, style", **DECODING)
    ] = None,
    hotwords: Annotated[str | None, typer.Option(help="names and terms to expect everywhere", **DECODING)] = None,
    temperature: Annotated[
        str, typer.Option(metavar="N,N,...", help="tried in turn while the text fails", **GUARDS)
    ] = "0,0.2,0.4,0.6,0.8,1",
    best_of: Annotated[
        int,
        typer.Option(metavar="N", min=1, callback=check_draws, help="texts drawn at a temperature above 0", **GUARDS),
    ] = 5,
    compression_ratio_threshold: Annotated[float | None, threshold("above it a text repeats itself and fails")] = 2.4,
    logprob_threshold: Annotated[float | None, threshold("below it a text is unlikely and fails")] = -1.0,
    no_speech_threshold: Annotated[float | None, threshold("above it a text that fails is silence")] = 0.6,
    condition: Annotated[
        bool,
        typer.Option("--condition-on-previous-text", help="on; with --no- before it off", show_default=False, **GUARDS),
    ] = True,
    no_condition: Annotated[bool, typer.Option("--no-condition-on-previous-text", hidden=True)] = False,
    channel: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="this channel alone, from 1 on", **READING)
    ] = None,
    channels: Annotated[
        Literal["mix", "separate"], typer.Option(help="separate: a labelled text for each", **READING)
    ] = "mix",
    track: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="of several audio tracks this one, from 1 on", **READING)
    ] = None,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="take what is left of a file that is cut or damaged", **READING)
    ] = False,
    max_hours: MaxHours = 12,
    max_channels: Annotated[
        int, typer.Option(metavar="N", min=1, max=65_535, help="refuse what has more channels", **READING)
    ] = 64,
) -> None:
    """Write down what is said in audio and video files.

    A file that cannot be read does not stop the others. Options are named as whisper's, also with underscores.
    """
    with StopSignals() as stop:
        from labsupport import whisper
        from labsupport.engine.choosing import load_for_command
        from labsupport.machine.backend import let_threads_sleep, loaded_framework, use_threads
        from labsupport.speech.audio import Limits
        from labsupport.whisper.file_progress import TerminalWatcher
        from labsupport.whisper.files import Input, Output, transcribe_files
        from labsupport.whisper.guards import Guards, parse_temperatures
        from labsupport.whisper.language import find_code

        let_threads_sleep()
        if threads:
            use_threads(threads)

        def load() -> whisper.Transcriber:
            loaded = load_for_command(model, backend, engine, reporter(why))
            if threads and loaded_framework() == "mindspore":
                raise MachineError("MindSpore itself decides on its threads.", hint="Leave --threads out.")
            return loaded

        guards = Guards(
            parse_temperatures(temperature), best_of, compression_ratio_threshold, logprob_threshold,
            no_speech_threshold, condition and not no_condition,
        )  # fmt: skip
        watcher = TerminalWatcher(errors, print_error)
        outcome = transcribe_files(
            files, load,
            Input(channel, channels == "separate", Limits(max_hours * 3600, max_channels), track, allow_damaged),
            Output.parse(form, output_dir, timestamps), watcher, stop, resume,
            language=language and find_code(language), task=task, beams=beams, batch=batch, vad=vad,
            word_timestamps=word_timestamps, initial_prompt=initial_prompt, hotwords=hotwords, guards=guards,
        )  # fmt: skip
        watcher.summarise(files, outcome)
    raise typer.Exit(exit_code(outcome, stop))


def exit_code(outcome: Outcome, stop: StopSignals) -> int:
    """That of the signal which ended the work, of a reader that has gone, or 1 where a file failed."""
    if outcome.interrupted or stop.number:
        return stop.exit_code
    if isinstance(outcome.lost, BrokenPipeError):
        return 128 + 13  # SIGPIPE, which ends other programs then
    return int(bool(outcome.failed or outcome.lost))
