"""The lab's own engines in the race, and where the time of one transcription goes in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labsupport.checkpoints.config import Config
from labsupport.engine.race.running import Answer, Clips, Running, in_batches

if TYPE_CHECKING:
    from labsupport.whisper import Transcriber

PARTS = ("encode", "project_cross_kv", "prefill", "decode_step")  # of `whisper.protocol.WhisperModel`


def open_ours(
    folder: Path, threads: int, multilingual: bool, name: str, engine: str, batch: int = 1, vad: bool = False, **options
) -> Running:
    """Any engine of `loading.load`; name: the packaged model's. options: for `load`."""
    from labsupport.whisper.guards import NO_GUARDS

    transcriber = load(name, engine, threads, **options)

    def transcribe(clips: Clips) -> Answer:
        if batch > 1 and len(clips) > 1:
            return Answer(
                [text for group in in_batches(clips, batch) for text in transcribe_together(transcriber, group)]
            )
        found = [transcriber.transcribe(clip, "en", batch=batch, vad=vad, guards=NO_GUARDS) for clip in clips]
        return Answer([transcript.text for transcript in found])

    def split(clips: Clips) -> dict[str, dict[str, float]]:
        return measure_split(transcriber.model, lambda: transcribe(clips))

    return Running(transcribe, split if all(hasattr(transcriber.model, part) for part in PARTS) else None)


def load(name: str, engine: str, threads: int, off: Sequence[str] = (), **options: Any) -> Transcriber:
    """A transcriber.

    Args:
        off: what the fast engine does without: fields of `Rounding`, and "short_context".
        options: for torch as `whisper.load` takes them; compiled: with a static cache.
    """
    from labsupport.engine import loading
    from labsupport.engine.rounding import Rounding

    if engine == "fast":
        rounding = Rounding(**{field.name: field.name not in off for field in fields(Rounding)})
        return loading.load_fast(name, rounding, "short_context" not in off)
    if engine == "torch":
        import torch

        torch.set_num_threads(threads)
        options = {"device": "cpu", **options}
    if options.get("compiled"):
        from labsupport.optim.kv_cache import StaticCache

        options["cache"] = StaticCache
    return loading.load(name, engine=engine, **options)


def transcribe_together(transcriber: Any, clips: Clips) -> list[str]:
    """Clips of 30 s at most, a window each, side by side and without timestamps."""
    from labsupport.speech.segments import Span
    from labsupport.whisper.search import greedy
    from labsupport.whisper.token_filters import make_prompt
    from labsupport.whisper.transcribe import stack_mels

    model, tokenizer = transcriber.model, transcriber.tokenizer
    recordings = [transcriber.analyse(clip) for clip in clips]
    mels = stack_mels([(each, Span(0, each.frames)) for each in recordings], transcriber.short_context)
    prompt = make_prompt(tokenizer, "en" if model.config.multilingual else None, timestamps=False)
    rules = replace(transcriber.rules, timestamps=False)
    found = greedy(model, model.encode(mels), prompt, rules)  # (clips, mels, frames) -> (clips, frames / 2, d_model)
    return [tokenizer.decode(hypothesis.tokens) for hypothesis in found]


# --- where the time goes ----------------------------------------------------------------------------------------------


def measure_split(model: Any, work: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Of one run of `work`: part -> seconds, calls, and rows (windows, texts) of all calls; "all" is the whole run.

    places: of the encoder's output that all rows together make or read; squares: of each row's, added up.
    """
    found = {part: dict.fromkeys(("seconds", "calls", "rows", "places", "squares"), 0.0) for part in PARTS}
    with timed_parts(model, found):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return {"all": {"seconds": seconds, "calls": 1, "rows": 1}, **found}


@contextmanager
def timed_parts(model: Any, found: dict[str, dict[str, float]]) -> Iterator[None]:
    """In the block each of PARTS adds its time to `found`; one that another calls counts as that other's."""
    places, inside = 0, False  # places: a row's

    def wrap(part: str, function: Callable) -> Callable:
        def timed(first: Any, *rest: Any, **options: Any) -> Any:
            nonlocal places, inside
            if inside:  # torch's and MindSpore's decode_step is a prefill of one token
                return function(first, *rest, **options)
            if part in ("encode", "project_cross_kv"):
                places = first.shape[2] // 2 if part == "encode" else first.shape[1]
            start, inside = time.perf_counter(), True
            try:
                result = function(first, *rest, **options)
            finally:
                inside = False
            entry = found[part]
            entry["seconds"] += time.perf_counter() - start
            entry["calls"] += 1
            entry["rows"] += len(first)
            entry["places"] += len(first) * places
            entry["squares"] += len(first) * places**2
            return result

        return timed

    for part in PARTS:
        setattr(model, part, wrap(part, getattr(model, part)))
    try:
        yield
    finally:
        for part in PARTS:
            delattr(model, part)


def encoder_flops(config: Config, places: float, squares: float) -> float:
    """Multiplies and adds for so many places: those of `linear_flops`, and each place's attention to all of its row.

    squares: of each row's places, added up.
    """
    attention = 2 * 2 * squares * config.d_model
    return linear_flops(config) * places / config.audio_positions + config.encoder_layers * attention


def linear_flops(config: Config) -> int:
    """Of one window, what grows with its length: two convolutions, each layer's projections and feed-forward net."""
    d, places = config.d_model, config.audio_positions
    convolutions = 2 * 3 * d * (config.mels * 2 * places + d * places)
    return convolutions + config.encoder_layers * 2 * places * (4 * d * d + 2 * d * config.ffn_dim)
