"""What fewer bits do to a whole model: size, memory, encoder, decode step, transcription, and its errors.

    .venv/bin/python benchmarks/quantization.py [MODEL] [RUNS]

One process, variants in turns: float32, half precision, every way of `optim.quantization`, rounding with correction,
compiled variants, and libraries on the same model. Corrections learn from the corpus; word error rates are of clips
that nothing was fitted to. The rows go where a notebook's go (`LAB_RESULTS`, else `.lab/results`). torch, with a C++
compiler.
"""

from __future__ import annotations

import io
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import faster_whisper
import numpy as np
import torch
import torchao.quantization as torchao
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from labsupport import whisper
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint, find_part
from labsupport.graphs import session, whisper_graphs
from labsupport.optim.attention import sdpa
from labsupport.optim.quantization import Scheme
from labsupport.results import rows, timing
from labsupport.speech import audio, corpus, features, text
from labsupport.whisper import quantized, quantized_files
from labsupport.whisper.replay import step_at

GROUP, TIMED, POSITION = "quantization", "jfk", 100
CLIPS = ("jfk", "narration")
HALF = ("bfloat16", "float16")
CORRECTED = {f"{way}, corrected": way for way in ("int8 weights", "int4 weights, channel")}
COMPILED = ("float32, compiled", "int8 weights, compiled", "int8 integers, compiled")
FASTEST = "int8 integers, compiled, float16 attention"
LIBRARIES: dict[str, Callable[[nn.Module], object]] = {
    "torch quantize_dynamic": lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True),
    "torchao int8 weights": lambda model: torchao.quantize_(model, torchao.Int8WeightOnlyConfig()),
    "torchao int8 dynamic": lambda model: torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig()),
}


def main(name: str = "base", runs: int = 7) -> None:
    samples = audio.read(audio.clip(TIMED).path)
    plain = whisper.load(name, device="cpu")
    mel = features.window(features.log_mel(samples, plain.model.config.mels), 0)[None]
    changes = {"float32": None, **quantized.WAYS, **dict.fromkeys(CORRECTED), **dict.fromkeys((*COMPILED, FASTEST))}
    changes |= {half: partial(to_half, dtype=half) for half in HALF} | LIBRARIES
    corpus_samples = audio.read(corpus.CORPUS / "train.ogg")
    products = quantized.record_inputs(plain.model, lambda: plain.transcribe(corpus_samples))
    variants = {each: load(name, each, change, products) for each, change in changes.items()}
    label = plain.label
    for variant, loaded in variants.items():
        report(f"size on disk: {variant}", bytes_on_disk(variant, loaded), "bytes", label)
    compare_scores(variants, mel, label)
    compare_parts(name, variants, mel, runs, label)
    compare_transcriptions(variants, samples, runs, label)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        alone.submit(compare_peers, name, samples, runs, label).result()
    for variant, loaded in variants.items():
        quantized.decode_model(loaded.model)  # the same numbers, and a shorter wait
        report_words(variant, partial(say, loaded), label)


# --- variants ---------------------------------------------------------------------------------------------------------


def load(name: str, variant: str, change: Callable | None, products: dict) -> whisper.Transcriber:
    """A model in this variant, ready to transcribe."""
    pieces = {"attention": attend_in_half} if variant == FASTEST else {}
    loaded = whisper.load(name, device="cpu", compiled="compiled" in variant, **pieces)
    if variant in CORRECTED:
        scheme = Scheme(int(variant[3]))
        make = quantized.corrected(loaded.model, products, scheme)
        quantized.quantize_model(loaded.model, make, words=quantized.QuantizedLinear.of)
    elif "compiled" in variant:
        quantized.WAYS.get(variant.split(", ")[0], lambda model: model)(loaded.model)
        loaded.model.encoder.compile()
    elif change:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own way is deprecated
            change(loaded.model)
    return loaded


def to_half(model: nn.Module, dtype: str) -> None:
    model.to(getattr(torch, dtype))


def attend_in_half(q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Attention in float16 where there are many queries. One query does too little to pay for converting its keys."""
    if q.shape[2] == 1:
        return sdpa(q, k, v, mask=mask, causal=causal)
    return sdpa(q.half(), k.half(), v.half(), mask=mask, causal=causal).float()


# --- measurements -----------------------------------------------------------------------------------------------------


def compare_parts(name: str, variants: dict, mel: np.ndarray, runs: int, label: str) -> None:
    """Encoder and decode step, and the most memory that either takes with its weights."""
    models = {each: loaded.model for each, loaded in variants.items()}
    encoders = {each: partial(model.encode, mel) for each, model in models.items()}
    steps = {each: step_at(m, m.new_cache(), encoders[each](), POSITION) for each, m in models.items()}
    sessions = {each: partial(s.run, None, {"mel": mel}) for each, s in open_sessions(name).items()}
    encoder = timing.compare({**encoders, **sessions}, runs=3 * runs, warmup=2)
    step = timing.compare(steps, runs=3 * runs, warmup=2)
    record(encoder, "encoder", label)
    record(step, f"decode step at {POSITION}", label)
    for variant in variants.keys() - LIBRARIES.keys():  # which hide their weights from a count
        held = sum(tensor.nbytes for tensor in models[variant].state_dict().values())
        peak = held + max(timed[variant].peak_bytes for timed in (encoder, step))
        report(f"weights and peak of encoder and step: {variant}", peak, "bytes", label)


def open_sessions(name: str) -> dict:
    """ONNX Runtime's encoder, as exported and with its matrix products quantised."""
    graph = whisper_graphs.encoder(find_checkpoint(name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        quantize_dynamic(graph, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
        graphs = {"ONNX Runtime float32": graph.SerializeToString(), "ONNX Runtime int8": path}
        return {each: session.open_session(given) for each, given in graphs.items()}


def compare_transcriptions(variants: dict, samples: np.ndarray, runs: int, label: str) -> None:
    """Weight-only variants are left out: they decode the whole table of tokens for each of the prompt's steps."""
    quick = {each: partial(v.transcribe, samples) for each, v in variants.items() if "weights" not in each}
    race(quick, samples, runs, label)


def compare_peers(name: str, samples: np.ndarray, runs: int, label: str) -> None:
    """CTranslate2, in a process of its own, where threads of torch cannot be in its way."""
    with tempfile.TemporaryDirectory() as folder:
        peers = {f"CTranslate2 {dtype}": open_peer(name, Path(folder), dtype) for dtype in ("float32", "int8")}
    race({each: partial(say_as_peer, peer, samples) for each, peer in peers.items()}, samples, runs, label)
    for each, peer in peers.items():
        report_words(each, partial(say_as_peer, peer), label)


def race(turns: dict[str, Callable], samples: np.ndarray, runs: int, label: str) -> None:
    timed = timing.compare(turns, runs=runs, warmup=2, audio_seconds=len(samples) / audio.SAMPLE_RATE)
    record(timed, "transcription", label)


def open_peer(name: str, folder: Path, dtype: str) -> faster_whisper.WhisperModel:
    """faster-whisper on the packaged weights, which are CTranslate2's own files."""
    parts = [find_part(*part) for part in PACKAGED[name].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return faster_whisper.WhisperModel(str(folder), device="cpu", compute_type=dtype, cpu_threads=2)


def say_as_peer(peer: faster_whisper.WhisperModel, samples: np.ndarray) -> str:
    segments, _ = peer.transcribe(samples, beam_size=1, temperature=0, condition_on_previous_text=False)
    return "".join(segment.text for segment in segments)


def say(loaded: whisper.Transcriber, samples: np.ndarray) -> str:
    return loaded.transcribe(samples).text


def bytes_on_disk(variant: str, loaded: whisper.Transcriber) -> int:
    """Of a file: safetensors with float16 beside codes, or, of a library's variant, what torch.save writes."""
    if variant in LIBRARIES:
        buffer = io.BytesIO()
        torch.save(loaded.model.state_dict(), buffer)
        return buffer.tell()
    if not variant.startswith("int"):
        return sum(tensor.nbytes for tensor in loaded.model.state_dict().values())
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


def report_words(variant: str, say: Callable[[np.ndarray], str], label: str) -> None:
    """Of the clips, and of the corpus' held-out sentences one after the other."""
    held_out = audio.read(corpus.CORPUS / "held_out.ogg"), " ".join(each.text for each in corpus.load("held_out"))
    spoken = {clip.name: (audio.read(clip.path), clip.text) for clip in map(audio.clip, CLIPS)}
    for name, (samples, said) in {**spoken, "held-out sentences": held_out}.items():
        report(f"word error rate: {variant}", 100 * text.wer(said, say(samples)), "%", label, clip=name)


def report(what: str, value: float, unit: str, model: str, **details) -> None:
    rows.record(what, value, unit, model=model, group=GROUP, **details)
    print(f"{what}: {value:.4g} {unit}", flush=True)


def record(timed: timing.Comparison, what: str, model: str) -> None:
    timed.record(f"{what} by precision", model=model, clip=TIMED, group=GROUP)
    print(f"\n{what}\n{timed}\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
