"""`lab corpus`: many files, on workers of Ray."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from labsupport.cli.options import DECODING, MODEL, OUTPUT, READING, Backend, Engine, MaxHours, check_finite
from labsupport.cli.printing import errors, print_line
from labsupport.machine.stop_signals import StopSignals


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
    backend: Backend = None,
    engine: Engine = "auto",
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
    max_hours: MaxHours = 12,
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
