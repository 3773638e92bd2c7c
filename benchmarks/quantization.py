"""What fewer bits do to a whole model: size, peak memory, encoder, decode step, transcription, and its errors.

    .venv/bin/python benchmarks/quantization.py [MODEL] [RUNS]

One process, variants in turns: float32, every way of `optim.quantization`, integer products with the encoder and the
decode step compiled, half precision. Word error rates are of both clips. The rows go where a notebook's go
(`LAB_RESULTS`, else `.lab/results`). torch, with a C++ compiler.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from labsupport import audio, checkpoints, measure, rows, text, whisper
from labsupport.optim import quantization, quantized_files
from labsupport.whisper import features
from labsupport.whisper.replay import step_at

GROUP, TIMED, POSITION = "quantization", "jfk", 100
CLIPS = ("jfk", "narration")
COMPILED = "int8 integers, compiled"


def load(name: str, variant: str) -> whisper.Recogniser:
    """A model in this variant, ready to transcribe."""
    loaded = whisper.load(name, device="cpu", compiled=variant == COMPILED)
    if variant in ("bfloat16", "float16"):
        loaded.model.to(getattr(torch, variant))
    elif variant == COMPILED:
        quantization.WAYS["int8 integers"](loaded.model)
        loaded.model.encoder.compile()
    elif variant != "float32":
        quantization.WAYS[variant](loaded.model)
    return loaded


def main(name: str = "base", runs: int = 7) -> None:
    variants = {each: load(name, each) for each in ("float32", *quantization.WAYS, COMPILED, "bfloat16", "float16")}
    label = variants["float32"].label
    for variant, loaded in variants.items():
        report(f"size on disk: {variant}", bytes_on_disk(name, variant, loaded), "bytes", label)
    samples = audio.read(audio.clip(TIMED).path)
    mel = features.window(features.log_mel(samples, variants["float32"].model.config.mels), 0)[None]
    compare_scores(variants, mel, label)
    sounds = {each: loaded.model.encode(mel) for each, loaded in variants.items()}
    works = {
        "encoder": {each: partial(loaded.model.encode, mel) for each, loaded in variants.items()},
        f"decode step at {POSITION}": {
            each: step_at(loaded.model, loaded.model.new_cache(), sounds[each], POSITION)
            for each, loaded in variants.items()
        },
    }
    for what, work in works.items():
        record(measure.compare(work, runs=3 * runs, warmup=2), what, label)
    quick = {each: partial(loaded.transcribe, samples) for each, loaded in variants.items() if "weights" not in each}
    seconds = len(samples) / audio.SAMPLE_RATE
    record(measure.compare(quick, runs=runs, audio_seconds=seconds), "transcription", label)
    for variant, loaded in variants.items():
        report_words(variant, loaded, label)


def report(what: str, value: float, unit: str, model: str, **details) -> None:
    rows.record(what, value, unit, model=model, group=GROUP, **details)
    print(f"{what}: {value:.4g} {unit}", flush=True)


def record(timed: measure.Comparison, what: str, model: str) -> None:
    timed.record(f"{what} by precision", model=model, clip=TIMED, group=GROUP)
    print(f"\n{what}\n{timed}\n", flush=True)


def bytes_on_disk(name: str, variant: str, loaded: whisper.Recogniser) -> int:
    """Of a safetensors file; beside codes, what has none is in float16."""
    if variant in ("float32", "bfloat16", "float16"):
        each = 4 if variant == "float32" else 2
        return sum(each * tensor.size for _, tensor in checkpoints.resolve(name).tensors())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        quantized_files.save(loaded.model, path)
        return path.stat().st_size


def compare_scores(variants: dict, mel: np.ndarray, label: str) -> None:
    """The largest difference of any score, over the clip's own words."""
    tokenizer = variants["float32"].tokenizer
    words = np.array([[tokenizer.sot, *tokenizer.encode(audio.clip(TIMED).text)]])
    scores = {each: v.model.step(words, v.model.encode(mel), v.model.new_cache()) for each, v in variants.items()}
    for variant, found in scores.items():
        report(f"largest score error: {variant}", np.abs(found - scores["float32"]).max(), "logits", label, clip=TIMED)


def report_words(variant: str, loaded: whisper.Recogniser, label: str) -> None:
    """Word error rates. Weight-only layers are decoded once before: the numbers are the same, and the wait shorter."""
    quantization.decode_model(loaded.model)
    for name in CLIPS:
        clip = audio.clip(name)
        rate = text.wer(clip.text, loaded.transcribe(audio.read(clip.path)).text)
        report(f"word error rate: {variant}", 100 * rate, "%", label, clip=name)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
