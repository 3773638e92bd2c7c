"""The commands of the lab. Each is thin: what it does lies in the module it calls."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from labsupport import __version__
from labsupport.base.errors import LabError, MachineError, printable
from labsupport.base.masking import MaskedStream
from labsupport.base.streams import ErrorConsole
from labsupport.machine.stop_signals import StopSignals

if TYPE_CHECKING:
    from labsupport.whisper.files import Outcome

MOST_DRAWS = 1000  # texts at one temperature
app = typer.Typer(
    help="Make Whisper and Bark fast and small, and measure every step on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True, emoji=False)
errors = ErrorConsole(soft_wrap=True, emoji=False)  # :smile: may be part of a name
Backend = Annotated[Literal["torch", "mindspore"] | None, typer.Option(help="the framework to compute with")]


def main() -> None:
    """Runs a command. A LabError is printed without a traceback, exit code 1; a wrong usage gives exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows escapes, and no traceback
    if sys.stderr:
        sys.stderr = MaskedStream(sys.stderr)  # libraries log there, tracebacks end there
    try:
        app()
    except LabError as error:
        print_error(error)
        sys.exit(1)


def print_error(error: LabError) -> None:
    lines = "\n".join(printable(line) for line in str(error).splitlines())
    errors.print(f"Error: {lines}", style="red", markup=False, highlight=False)


def print_hint(text: str) -> None:
    if errors.is_terminal:
        errors.print(text, markup=False, highlight=False)


def print_line(text: str) -> None:
    out.print(text, highlight=False, markup=False)


def end(ok: bool) -> None:
    """Exit code 1 unless all is well."""
    if not ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def stoppable(stored: str = "") -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the command with a line on what is `stored`, and with 128 and the signal."""
    with StopSignals() as stop:
        try:
            with stop.interruptible():
                yield
        except KeyboardInterrupt as interrupt:
            logging.getLogger("asyncio").disabled = True  # of the tasks that waited for a kernel
            lines = ["Stopped.", *map(str, interrupt.args), stored]
            errors.print(" ".join(filter(None, lines)), markup=False, highlight=False)
            raise typer.Exit(stop.exit_code) from None


def print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"Speech Inference Lab {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def lab(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True)] = False,
) -> None:
    """Make Whisper and Bark fast and small, and measure every step on your own machine."""


def check_finite(value: float) -> float:
    """An option's number; NaN, which no limit stops, and infinity are refused."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of this kind.")
    return value


def check_draws(value: int) -> int:
    """So many texts at a temperature as can be of use; a range beside the name would not fit 80 columns."""
    if value > MOST_DRAWS:
        raise typer.BadParameter(f"{value} is more than {MOST_DRAWS}.")
    return value


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="names or numbers; all when none is given")] = None,
    backend: Backend = None,
    fast: Annotated[bool, typer.Option("--fast/--full", help="a short run, or the one whose numbers count")] = True,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    clip: Annotated[str | None, typer.Option(help="a clip's name")] = None,
    timeout: Annotated[
        float, typer.Option(min=1, callback=check_finite, help="seconds that a notebook may take")
    ] = 1800,
    cell_timeout: Annotated[
        float, typer.Option(min=1, callback=check_finite, help="seconds that a cell may take")
    ] = 600,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat what an interrupted run finished")] = False,
    save: Annotated[bool, typer.Option("--save", help="authors: execute and save the notebook in place")] = False,
) -> None:
    """Execute notebooks, then write the report. An interrupted run continues where it stopped."""
    from labsupport.course import console, report, runner

    named = {"fast": fast, "model": model, "clip": clip}
    if save:
        if backend or named != {"fast": True, "model": None, "clip": None}:
            raise typer.BadParameter("--save takes a notebook's own parameters: the committed page shows the defaults")
        for path in runner.find_notebooks(notebooks or ()):
            with stoppable(f"{path.name} is as it was."):
                runner.execute_in_place(path, cell_timeout=cell_timeout)
            print_line(f"saved {path.name}")
        raise typer.Exit
    with stoppable():
        summary = runner.run(
            notebooks or (),
            backend=backend,
            parameters={name: value for name, value in named.items() if value is not None},
            timeout=timeout,
            cell_timeout=cell_timeout,
            fresh=fresh,
            console=out,
        )
    out.print(console.summarise(summary), highlight=False)
    out.print(f"report: {report.write()}", highlight=False)
    end(summary.ok)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="what needs no packaged model and no notebook")] = False,  # noqa: PT028
    soak: Annotated[bool, typer.Option("--soak", help="the tests that take minutes each, alone")] = False,  # noqa: PT028
    durations: Annotated[bool, typer.Option("--durations", help="print where the time went")] = False,  # noqa: PT028
) -> None:
    """Check the code, run the tests on both frameworks, and every notebook. Further arguments go to pytest."""
    from labsupport.course import testing

    if quick and soak:
        raise typer.BadParameter("--quick and --soak exclude each other.")
    with stoppable():
        passed = testing.run(context.args, "quick" if quick else "soak" if soak else "all", durations, print_line)
    end(passed)


@app.command(name="open")
def open_lab(
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser window")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8888,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="in a container whose only user is root")] = False,
) -> None:
    """Start JupyterLab on this machine alone, on the first notebook; the printed address holds its token."""
    from labsupport.course import jupyter

    raise typer.Exit(jupyter.serve(browser, port, allow_root))


@app.command()
def doctor(
    online: Annotated[bool, typer.Option("--online", help="also ask whether the model hub answers")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON, for programs")] = False,
) -> None:
    """Say what is here, what works, and what each missing thing would take; exit code 1 without a needed one."""
    from labsupport.course import console
    from labsupport.machine.doctor import examine, find_lacking, to_json

    checks = examine(online)
    lacking = find_lacking(checks)
    if as_json:
        print(to_json(checks))
    else:
        out.print("\n".join(console.check_lines(checks)), highlight=False)
        out.print(f"The lab cannot run without: {', '.join(lacking)}." if lacking else "The lab can run here.")
    end(not lacking)


# --- transcribe -------------------------------------------------------------------------------------------------------


VALUES = ("True", "False")
ALIASES = {"--vad-filter": "--vad"}  # faster-whisper's
FLAGS = {  # what whisper's `--vad False` is here; a flag that the command lacks, and does not do, is left out
    "--carry-initial-prompt": [],
    "--condition-on-previous-text": ["--no-condition-on-previous-text"],
    "--fp16": [],
    "--highlight-words": [],
    "--timestamps": [],
    "--vad": ["--no-vad"],
    "--word-timestamps": [],
}


class FileCommand(TyperCommand):
    """A command on files, which are told from options (`-opening.wav`) and from whisper's values of flags (`True`).

    An option of whisper that it lacks is refused with what to use instead.
    """

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        for argument in args[: args.index("--")] if "--" in args else args:
            if argument.startswith("-") and is_file_name(argument):
                name = printable(argument)
                hint = f"If it is a file, write ./{name}, or -- before the files."
                raise typer.BadParameter(f"{name} begins as an option does. {hint}", ctx=ctx)
        try:
            return super().parse_args(ctx, spell_flags(args))
        except Exception as error:  # an option that it does not know; typer has no public name for this error
            name = getattr(error, "option_name", "").replace("_", "-")
            if instead := find_instead(name):
                raise typer.BadParameter(f"{name} is whisper's, and not here. {instead}", ctx=ctx) from None
            raise


def find_instead(option: str) -> str | None:
    """What to use in place of an option of whisper's that is not here."""
    if not option:
        return None
    from labsupport.whisper.missing_options import INSTEAD

    return INSTEAD.get(option)


def spell_flags(args: list[str]) -> list[str]:
    """`--word_timestamps True` as the flag alone, and False as its contrary, or as nothing where it has none."""
    end = args.index("--") if "--" in args else len(args)
    spelled: list[str] = []
    for argument in (part for each in args[:end] for part in split_flag(each)):
        if argument not in VALUES or not spelled or spelled[-1] not in FLAGS:
            spelled.append(argument)
        elif argument == "False":
            spelled[-1:] = FLAGS[spelled[-1]]
    return spelled + args[end:]


def split_flag(argument: str) -> list[str]:
    """`--vad_filter=True` as --vad and True; what is no flag as it is."""
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-")
    if (flag := ALIASES.get(name, name)) not in FLAGS or (equals and value not in VALUES):
        return [argument]
    return [flag, value] if equals else [flag]


def is_file_name(argument: str) -> bool:
    """Whether there is such a file, or it ends as one; numbers and `--model=tiny.en` do not."""
    return os.path.isfile(argument) or re.fullmatch(r"[^=]*\.[A-Za-z]\w{1,4}", argument, re.DOTALL) is not None


def parse_threshold(given: str | float) -> float | None:
    """A number, which a default is already; or None for "none"."""
    try:
        return None if str(given).lower() == "none" else check_finite(float(given))
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no number, and not none.") from None


def panel(name: str) -> dict[str, Any]:
    return {"rich_help_panel": name}


def threshold(text: str):
    """A guard's limit, an option that "none" turns off."""
    return typer.Option(parser=parse_threshold, metavar="N|none", help=text, **GUARDS)


MODEL, OUTPUT, DECODING, READING = panel("Model"), panel("Output"), panel("Decoding"), panel("Reading")
GUARDS = panel("Guards against invented text")


@app.command(
    cls=FileCommand, context_settings={"token_normalize_func": lambda name: name.replace("_", "-")}  # as whisper's
)  # fmt: skip
def transcribe(
    files: Annotated[list[str], typer.Argument(help="any audio or video; - is standard input")],
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id", **MODEL)] = None,
    backend: Annotated[
        Literal["torch", "mindspore"] | None, typer.Option(help="the framework to compute with", **MODEL)
    ] = None,
    engine: Annotated[
        Literal["torch", "mindspore", "onnx"] | None,
        typer.Option(help="onnx: article B's graphs, with no framework loaded", **MODEL),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=4096, help="CPU threads, for torch and onnx; 0: by the machine", **MODEL),
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
    max_hours: Annotated[
        float, typer.Option(metavar="N", min=0, callback=check_finite, help="refuse what lasts longer", **READING)
    ] = 12,
    max_channels: Annotated[
        int, typer.Option(metavar="N", min=1, max=65_535, help="refuse what has more channels", **READING)
    ] = 64,
) -> None:
    """Write down what is said in audio and video files.

    A file that cannot be read does not stop the others. Options are named as whisper's, also with underscores.
    """
    with StopSignals() as stop:
        from labsupport import whisper
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
            if backend or engine:
                loaded = whisper.load(model, backend=backend, engine=engine)
            else:
                loaded = whisper.load_default(model, report=print_hint)
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


@app.command()
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
) -> None:
    """Write down what is said while it is said. Printed text is stable; Ctrl-C ends it."""
    from labsupport import whisper
    from labsupport.machine.backend import let_threads_sleep
    from labsupport.speech import audio, live_sound
    from labsupport.whisper.language import find_code
    from labsupport.whisper.live_screen import show_live

    let_threads_sleep()
    pieces = live_sound.record(step) if file is None else live_sound.play(audio.read_blocks(file), step, speed)
    with StopSignals() as stop:
        loaded = whisper.load_default(model, report=print_hint)
        show_live(loaded, pieces, speed if file else 1.0, language and find_code(language), out, errors, stop)


def exit_code(outcome: Outcome, stop: StopSignals) -> int:
    """That of the signal which ended the work, of a reader that has gone, or 1 where a file failed."""
    if outcome.interrupted or stop.number:
        return stop.exit_code
    if isinstance(outcome.lost, BrokenPipeError):
        return 128 + 13  # SIGPIPE, which ends other programs then
    return int(bool(outcome.failed or outcome.lost))


# --- corpus -----------------------------------------------------------------------------------------------------------


@app.command()
def corpus(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="a folder; or a csv, jsonl or parquet with a path column")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="where the parquet parts go")],
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="processes, each with a model")] = 1,
    gpus: Annotated[
        float, typer.Option(metavar="N", min=0, callback=check_finite, help="reserved for a worker, such as 0.5")
    ] = 0,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it, this machine")] = None,
    redo: Annotated[bool, typer.Option("--redo", help="replace what was done with other options")] = False,
    model: Annotated[str, typer.Option(help="a packaged name, a folder or a hub id", **MODEL)] = "tiny.en",
    backend: Annotated[
        Literal["torch", "mindspore"] | None, typer.Option(help="the framework to compute with", **MODEL)
    ] = None,
    engine: Annotated[Literal["torch", "mindspore", "onnx"] | None, typer.Option(help="onnx: graphs", **MODEL)] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, max=4096, help="of a worker; 0: its share of the cores", **MODEL)
    ] = 0,
    language: Annotated[str | None, typer.Option(help="detected in each file if not given", **DECODING)] = None,
    task: Annotated[
        Literal["transcribe", "translate"], typer.Option(metavar="TASK", help="or translate into English", **DECODING)
    ] = "transcribe",
    beams: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="1 is greedy", **DECODING)] = 5,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="windows at once", **DECODING)] = 1,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="decode speech alone", **DECODING)] = True,
    word_timestamps: Annotated[bool, typer.Option("--word-timestamps", help="of each word", **OUTPUT)] = False,
    initial_prompt: Annotated[str | None, typer.Option(help="names, style", **DECODING)] = None,
    hotwords: Annotated[str | None, typer.Option(help="names and terms to expect", **DECODING)] = None,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="take what is left of files", **READING)
    ] = False,
    max_hours: Annotated[
        float, typer.Option(metavar="N", min=0, callback=check_finite, help="refuse what lasts longer", **READING)
    ] = 12,
) -> None:
    """Transcribe a corpus on workers of Ray: a parquet row for each file, with its text or its error.

    A call that is ended goes on where it stopped. The texts are those of `lab transcribe` with the same options.
    """
    from labsupport.scaling.corpus import Pool, transcribe_corpus
    from labsupport.scaling.progress import CorpusProgress, summarise
    from labsupport.scaling.worker import Settings
    from labsupport.whisper.language import find_code

    settings = Settings(
        model, backend=backend, engine=engine, threads=threads or max(1, (os.cpu_count() or 1) // workers),
        language=language and find_code(language), task=task, beams=beams, batch=batch, vad=vad,
        word_timestamps=word_timestamps, initial_prompt=initial_prompt, hotwords=hotwords,
        allow_damaged=allow_damaged, max_hours=max_hours,
    )  # fmt: skip
    with StopSignals() as stop, CorpusProgress(errors) as progress:
        summary = transcribe_corpus(source, output, settings, progress, stop, Pool(workers, gpus, address), redo)
    print_line(summarise(summary))
    raise typer.Exit(stop.exit_code if summary.interrupted else int(summary.failed > 0))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="the address to answer on; by default this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    engine: Annotated[
        Literal["torch", "mindspore", "onnx"] | None, typer.Option(help="onnx on a CPU, if not given")
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, max=4096, help="CPU threads, for torch and onnx; 0: by the machine")
    ] = 0,
    beams: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="1 is greedy: quicker, less exact")] = 1,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="windows of 30 s at once")] = 8,
    queue: Annotated[int, typer.Option(metavar="N", min=0, max=10_000, help="requests that wait; more get 429")] = 32,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=1, callback=check_finite, help="seconds that a request may take")
    ] = 600,
    max_minutes: Annotated[
        float, typer.Option(metavar="N", min=0.01, callback=check_finite, help="of sound in a request")
    ] = 120,
    max_megabytes: Annotated[
        float, typer.Option(metavar="N", min=0.001, callback=check_finite, help="of a request")
    ] = 256,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="bearer tokens, one a line; or LAB_SERVE_TOKEN holds one")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="let others in without a token")] = False,
) -> None:
    """Serve speech to text over HTTP, in the form of OpenAI's API. SIGTERM and Ctrl-C end it after what it accepted.

    Its texts are those of `lab transcribe` with the same beams, and with a batch of more than 1.
    """
    from labsupport.machine.backend import let_threads_sleep, use_threads
    from labsupport.serving import server
    from labsupport.serving.auth import read_tokens
    from labsupport.serving.settings import Settings, check_binding
    from labsupport.whisper.loading import load_for_service

    tokens = read_tokens(token_file)
    check_binding(host, bool(tokens), insecure)
    let_threads_sleep()
    if threads:
        use_threads(threads)
    settings = Settings(
        batch=batch, active=batch, queue=queue, beams=beams, request_seconds=timeout, audio_seconds=max_minutes * 60,
        upload_bytes=round(max_megabytes * 2**20), spool_bytes=8 * round(max_megabytes * 2**20),
    )  # fmt: skip
    server.serve(lambda: load_for_service(model, engine), host, port, settings, tokens)


@app.command()
def report() -> None:
    """Write the report of what was run and measured so far, one HTML file."""
    from labsupport.course import report as pages

    out.print(f"report: {pages.write()}", highlight=False)


@app.command()
def progress() -> None:
    """List the exercises, and which of them you have solved."""
    from labsupport.course import console, exercises

    everything = exercises.progress()
    out.print(console.progress_table(everything))
    done = [solved for items in everything.values() for _, solved in items]
    out.print(f"{sum(done)} of {len(done)} exercises solved", highlight=False)


@app.command()
def sophon() -> None:
    """Make the TPU compiler that notebook 08 uses: 300 MB to fetch, 2 GB in the cache, Python 3.10 needed."""
    from labsupport import sophon as compiler

    with stoppable("What was fetched is in uv's cache; the next call begins the environment anew."):
        made = compiler.make_toolchain(print_line)
    print_line(f"TPU-MLIR {made.version} is ready: {made.folder}")


# --- benchmarks -------------------------------------------------------------------------------------------------------

bench = typer.Typer(
    no_args_is_help=True, help="Long measurements, whose rows go to `LAB_RESULTS`, else `.lab/results`."
)
app.add_typer(bench, name="bench")
Model = Annotated[str, typer.Option(help="a packaged name, a folder or a hub id")]
Runs = Annotated[int, typer.Option(min=1, max=10_000, help="of each variant, in turns")]
Clip = Annotated[str, typer.Option(help="a clip's name")]
ROWS_STORED = "The rows that it had recorded are stored."
BENCHMARKS = (  # the module that it runs; the defaults of model, runs and clip; its help
    ("kv_caches", "base", 15, "narration",
     "KV caches: a decode step at several positions, texts side by side, and a beam search; torch or MindSpore."),
    ("graph_rewrites", "base", 30, "narration",
     "Article B's four graph rewrites: a step of beam 5 with the whole loop decoder, form by form."),
    ("engines", "tiny.en", 7, "jfk",
     "torch and ONNX Runtime: encoder, decode steps and whole transcriptions, in a process each."),
    ("twins", "tiny.en", 7, "jfk",
     "torch and MindSpore: encoder and whole transcriptions with eager attention, in a process each."),
    ("quantization", "base", 7, "jfk",
     "Fewer bits: size, memory, encoder, decode step, transcription and word error rates of a whole model."),
    ("long_audio", "tiny.en", 3, "narration",
     "Three ways through long audio: errors, invented words, time, memory, and a batch sweep."),
    ("serving", "tiny.en", 5, "jfk",
     "The service under load, against article C's shape mended so that it runs, and a crowd; by locust."),
)  # fmt: skip


def add_benchmark(name: str, default_model: str, default_runs: int, default_clip: str, text: str) -> None:
    @bench.command(name=name, help=text)
    def command(model: Model = default_model, runs: Runs = default_runs, clip: Clip = default_clip) -> None:
        from labsupport.speech import audio

        with stoppable(ROWS_STORED):
            audio.clip(clip)  # before a model is loaded
            importlib.import_module(f"labsupport.benchmarks.{name}").run(model, runs, clip)


for benchmark in BENCHMARKS:
    add_benchmark(*benchmark)


@bench.command(name="invented_text")
def bench_invented_text(
    model: Annotated[str, typer.Option(help="a packaged name")] = "base",
    parts: Annotated[str, typer.Option(help="some of them, with commas")] = "recordings,silence,noise,no speech",
) -> None:
    """What Whisper invents: errors and added words in silence and noise, beside faster-whisper's."""
    from labsupport.benchmarks import invented_text

    with stoppable(ROWS_STORED):
        invented_text.run(model, parts)


@bench.command(name="bark_attention")
def bench_bark_attention(
    model: Annotated[str, typer.Option(help="a shape (random weights), a folder or a hub id")] = "bark-small",
    runs: Runs = 5,
    clip: Annotated[str, typer.Option(help="the clip whose text is spoken")] = "jfk",
    stages: Annotated[str, typer.Option(help="some of them, with commas")] = "semantic,coarse,fine",
    tokens: Annotated[int, typer.Option(min=1, help="semantic tokens")] = 32,
) -> None:
    """Bark's attention, eager and fused, stage by stage in turns; both models in memory ("bark": 10 GB)."""
    from labsupport.speech import audio

    with stoppable(ROWS_STORED):
        audio.clip(clip)
        from labsupport.benchmarks import bark_attention

        bark_attention.run(model, runs, stages, tokens, clip)


@bench.command(name="bark")
def bench_bark(
    samples: Annotated[
        int, typer.Option("--samples", "--runs", min=1, max=100_000, help="how many to speak a variant")
    ] = 100,
    batch: Annotated[str, typer.Option(help="how many at a time; several with commas: 1,8")] = "1",
    model: Annotated[
        str, typer.Option("--model", "--checkpoint", help="a shape (random weights), a folder or a hub id")
    ] = "bark-small",
    variants: Annotated[str | None, typer.Option(help="such as plain,fused,fused+half+offload; all by default")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="semantic tokens of a sample")] = 256,
    rounds: Annotated[
        int, typer.Option(min=1, max=100_000, help="in how many turns the variants share the samples")
    ] = 4,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat what an earlier run did")] = False,
) -> None:
    """Article D's benchmark of Bark: latency, peak memory and throughput of each combination of tricks.

    An interrupted run continues where it stopped.
    """
    from labsupport.base import tables
    from labsupport.benchmarks import bark, bark_batches
    from labsupport.course import console

    plan = bark.Plan(model, bark.parse_variants(variants), bark.parse_batch_sizes(batch), samples, tokens, rounds)
    stored = "The finished batches are stored; the same call without --fresh goes on after them."
    with stoppable(stored), console.BatchProgress(out) as progress:
        summaries = bark.run(plan, progress.report_batch, fresh)
    bark.record(plan, summaries)
    print_line(tables.text_table(bark_batches.table(summaries)))
    print_line(f"plot: {bark.draw(plan, summaries)}")
