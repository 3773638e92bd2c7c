"""The commands of the lab. Each is thin: what it does lies in the module it calls."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from labsupport import __version__
from labsupport.base.errors import LabError
from labsupport.base.paths import NOTEBOOKS, ROOT

app = typer.Typer(
    help="Make Whisper and Bark fast and small, and measure every step on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
NBVAL = ("-p", "labsupport.course.nbval_kernels", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300")
NBVAL += ("--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"))
SIDE_BY_SIDE = ("--dist", "loadfile", "--no-loadscope-reorder")  # the cells of a notebook share a kernel
MEMORY_OF_TESTS = 8 * 2**30  # bytes that one process of tests may want; MindSpore's does
SLOW = ("test_notebooks",)
MINDSPORE_TESTS = (("tests", "both_backends"), ("tests", "mindspore"))  # the second are MindSpore's alone
NO_TESTS = 5  # pytest's exit code when its options leave nothing to run


class Backend(str, enum.Enum):
    """The two frameworks of the course."""

    torch = "torch"
    mindspore = "mindspore"


class Engine(str, enum.Enum):
    """What can run Whisper: a framework, or ONNX Runtime without any."""

    torch = "torch"
    mindspore = "mindspore"
    onnx = "onnx"


class Form(str, enum.Enum):
    """How a transcript is written."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"


def main() -> None:
    """Runs a command. A LabError is printed without a traceback, exit code 1; a wrong usage gives exit code 2."""
    try:
        app()
    except LabError as error:
        _print_error(error)
        sys.exit(1)


def _print_error(error: LabError) -> None:
    errors.print(f"Error: {error}", style="red", markup=False, highlight=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"Speech Inference Lab {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def lab(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Make Whisper and Bark fast and small, and measure every step on your own machine."""


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="names or numbers; all when none is given")] = None,
    backend: Annotated[Backend | None, typer.Option(help="the framework to compute with")] = None,
    fast: Annotated[bool, typer.Option("--fast/--full", help="a short run, or the one whose numbers count")] = True,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    clip: Annotated[str | None, typer.Option(help="a clip's name")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="seconds that a notebook may take")] = 1800,
    cell_timeout: Annotated[float, typer.Option(min=1, help="seconds that a cell may take")] = 600,
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
            runner.execute_in_place(path, cell_timeout=cell_timeout)
            out.print(f"saved {path.name}", highlight=False)
        return
    summary = runner.run(
        notebooks or (),
        backend=backend and backend.value,
        parameters={name: value for name, value in named.items() if value is not None},
        timeout=timeout,
        cell_timeout=cell_timeout,
        fresh=fresh,
        console=out,
    )
    out.print(console.summarise(summary), highlight=False)
    out.print(f"report: {report.write()}", highlight=False)
    if not summary.ok:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Check the style, then run all tests, on MindSpore too, and every notebook. Further arguments go to pytest."""
    codes = [_python("ruff", "check", "."), _python("ruff", "format", "--check", ".")]
    options, threads = _split_work(context.args)
    with tempfile.TemporaryDirectory() as home:
        for backend, arguments in _sessions(context.args):
            # A test's results are nobody's results: they must not land among the learner's own.
            environment = {"LAB_HOME": home, "LAB_BACKEND": backend, **threads}
            code = _python("pytest", *NBVAL, *options, *arguments, environment=environment)
            codes.append(0 if code == NO_TESTS and context.args else code)
    if any(codes):
        raise typer.Exit(1)


def _split_work(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """pytest's options and the environment that run tests side by side, with one thread each.

    Two threads of one computation wait for each other at the end of every operation. Where the system takes one of
    two cores away for a moment, both stand still: on a shared machine, the same decoding then takes now a moment, now
    many times as long. Two processes of one thread lose only what is taken. Tests that are named run alone, with all
    cores.
    """
    from labsupport.machine.os_info import usable_cores, usable_memory

    workers = min(usable_cores(), usable_memory() // MEMORY_OF_TESTS)
    if workers < 2 or _named(arguments):
        return [], {}
    return ["-n", str(workers), *SIDE_BY_SIDE], {"OMP_NUM_THREADS": "1"}


def _named(arguments: list[str]) -> list[str]:
    """The paths among pytest's arguments."""
    return [argument for argument in arguments if Path(argument).parts[:1] in {("tests",), ("notebooks",)}]


def _python(module: str, *arguments: str, environment: dict[str, str] | None = None) -> int:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), check=False).returncode


def _sessions(arguments: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each backend with pytest's arguments: a process has one backend, so tests of two need two processes.

    torch's session takes all tests, the slow ones last, and the notebooks; MindSpore's takes the tests that concern
    it. Paths among `arguments` take the place of all that.
    """
    from labsupport.machine.doctor import missing

    named = _named(arguments)
    options = [argument for argument in arguments if argument not in named]
    ours = [path for path in named if Path(path).parts[:2] in MINDSPORE_TESTS]
    others = [path for path in named if Path(path).parts[:2] != MINDSPORE_TESTS[-1]]
    if others or not named:
        yield "torch", [*(others or _everything()), *options]
    if ours or not named:
        if reason := missing("mindspore"):
            out.print(f"MindSpore's tests did not run: {reason}", highlight=False, markup=False)
        else:
            yield "mindspore", [*(ours or [os.path.join(*folder) for folder in MINDSPORE_TESTS]), *options]


def _everything() -> list[str]:
    """What torch's session runs: every test but MindSpore's own, the slow ones last, then the notebooks."""
    folder = ROOT.joinpath(*MINDSPORE_TESTS[-1])
    tests = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda path: (path.stem in SLOW, path))
    paths = [path for path in [*tests, *_comparable_notebooks()] if folder not in path.parents]
    return [str(path.relative_to(ROOT)) for path in paths]


def _comparable_notebooks() -> Iterator[Path]:
    """The notebooks that can run here; says which are left out, and why."""
    from labsupport.course import runner

    for path in runner.find_notebooks():
        _, reason = runner.backend_for(runner.read(path))
        if reason:
            out.print(f"not compared with its stored output: {path.name}: {reason}", highlight=False, markup=False)
        else:
            yield path


@app.command(name="open")
def open_lab(
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser window")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8888,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="in a container whose only user is root")] = False,
) -> None:
    """Start JupyterLab on this machine alone, on the first notebook; the printed address holds its token."""
    from labsupport.course import runner

    first = runner.find_notebooks()[0]
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={NOTEBOOKS}"]
    # JupyterLab would ask the web for its news and for updates.
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    options += [f"--LabApp.default_url=/lab/tree/{first.name}", f"--ServerApp.open_browser={browser}"]
    options += [f"--ServerApp.allow_root={allow_root}"]
    raise typer.Exit(_python("jupyterlab", *options))


@app.command()
def doctor(
    online: Annotated[bool, typer.Option("--online", help="also ask whether the model hub answers")] = False,
) -> None:
    """Say what is here, what works, and what each missing thing would take."""
    from labsupport.course import console
    from labsupport.machine.doctor import examine

    checks = examine(online)
    for line in console.check_lines(checks):
        out.print(line, highlight=False)
    lacking = [check.name for check in checks if check.required and not check.here]
    out.print(f"The lab cannot run without: {', '.join(lacking)}." if lacking else "The lab can run here.")
    if lacking:
        raise typer.Exit(1)


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="wav, flac, mp3 or ogg")],
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    backend: Annotated[Backend | None, typer.Option(help="the framework to compute with")] = None,
    engine: Annotated[Engine | None, typer.Option(help="onnx: article B's graphs, with no framework loaded")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="print each segment's time")] = False,
    form: Annotated[Form, typer.Option("--format")] = Form.text,
    language: Annotated[str | None, typer.Option(help="such as en; detected when it is not given")] = None,
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy")] = 1,
) -> None:
    """Write down what is said in audio files. A file that cannot be read does not stop the others."""
    from labsupport import whisper
    from labsupport.checkpoints.resolve import DEFAULT_MODEL
    from labsupport.speech import audio

    chosen = {"backend": backend and backend.value, "engine": engine and engine.value}
    loaded = whisper.load(model or DEFAULT_MODEL, **chosen)
    failed = False
    for file in files:
        try:
            samples = audio.read(file)
            transcript = loaded.transcribe(samples, language=language, beams=beams)
        except LabError as error:
            _print_error(error)
            failed = True
        else:
            print(_rendered(transcript, form, timestamps))
    if failed:
        raise typer.Exit(1)


def _rendered(transcript, form: Form, timestamps: bool) -> str:
    from labsupport.speech import text

    if form is Form.text and timestamps:
        return "\n".join(f"[{part.start:7.2f} - {part.end:7.2f}]  {part.text.strip()}" for part in transcript.segments)
    return transcript.text.strip() if form is Form.text else text.render(transcript.segments, form.value)


bench = typer.Typer(help="Long measurements, which go on where they were stopped.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command(name="bark")
def bench_bark(
    samples: Annotated[int, typer.Option(min=1, help="how many to speak with each variant")] = 100,
    batch: Annotated[str, typer.Option(help="how many at a time; several with commas: 1,8")] = "1",
    checkpoint: Annotated[str, typer.Option(help="a shape (random weights), a folder or a hub id")] = "bark-small",
    variants: Annotated[str | None, typer.Option(help="such as plain,fused,fused+half+offload; all by default")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="semantic tokens of a sample")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="in how many turns the variants share the samples")] = 4,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat what an earlier run did")] = False,
) -> None:
    """Article D's benchmark: latency, peak memory and throughput of Bark with each combination of tricks."""
    from labsupport.base import tables
    from labsupport.benchmarks import bark
    from labsupport.course import console

    plan = bark.Plan(checkpoint, bark.read_variants(variants), bark.read_sizes(batch), samples, tokens, rounds)
    with console.BatchProgress(out) as progress:
        summaries = bark.run(plan, progress.tell, fresh)
    bark.record(plan, summaries)
    out.print(tables.text_table(bark.table(summaries)), highlight=False, markup=False)
    out.print(f"plot: {bark.draw(plan, summaries)}", highlight=False)


@app.command()
def report(
    readme: Annotated[bool, typer.Option("--readme", help="rewrite the generated parts of README.md")] = False,
) -> None:
    """Write the report of what was run and measured so far, one HTML file."""
    from labsupport.course import report as pages

    path = pages.update_readme() if readme else pages.write()
    out.print(f"{'rewrote' if readme else 'report'}: {path}", highlight=False)


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

    made = compiler.make_toolchain(lambda text: out.print(text, highlight=False, markup=False))
    out.print(f"TPU-MLIR {made.version} is ready: {made.folder}", highlight=False)
