"""`lab bench`: the long measurements, a command for each."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from labsupport.cli.printing import out, print_line, stoppable

app = typer.Typer(no_args_is_help=True, help="Long measurements, whose rows go to `LAB_RESULTS`, else `.lab/results`.")
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
    ("engine_pieces", "base", 15, "jfk",
     "Who is to carry the fast engine's arithmetic: OpenVINO, ONNX Runtime, oneDNN through torch, by pieces."),
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
    @app.command(name=name, help=text)
    def command(model: Model = default_model, runs: Runs = default_runs, clip: Clip = default_clip) -> None:
        from labsupport.speech import audio

        with stoppable(ROWS_STORED):
            audio.clip(clip)  # before a model is loaded
            importlib.import_module(f"labsupport.benchmarks.{name}").run(model, runs, clip)


for benchmark in BENCHMARKS:
    add_benchmark(*benchmark)


@app.command(name="invented_text")
def bench_invented_text(
    model: Annotated[str, typer.Option(help="a packaged name")] = "base",
    parts: Annotated[str, typer.Option(help="some of them, with commas")] = "recordings,silence,noise,no speech",
) -> None:
    """What Whisper invents: errors and added words in silence and noise, beside faster-whisper's."""
    from labsupport.benchmarks import invented_text

    with stoppable(ROWS_STORED):
        invented_text.run(model, parts)


@app.command(name="bark_attention")
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


@app.command(name="bark")
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
