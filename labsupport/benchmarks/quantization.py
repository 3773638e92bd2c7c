"""What fewer bits do to a whole model: size, memory, encoder, decode step, transcription, and its errors.

    ./lab bench quantization --model base --runs 7 --clip jfk

One process, variants in turns: float32, half precision, every recipe of `whisper.quantized`, GPTQ, compiled variants,
and libraries on the same model. GPTQ is calibrated on the corpus; word error rates are of clips that nothing was fitted
to. torch, with a C++ compiler.
"""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import faster_whisper
import numpy as np
import torch
import torchao.quantization as torchao
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from labsupport import whisper
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint, find_part
from labsupport.graphs import session, whisper_graphs
from labsupport.machine import children
from labsupport.optim.attention import sdpa
from labsupport.optim.quantization import Scheme
from labsupport.results import timing
from labsupport.results.recording import Recording
from labsupport.speech import audio, corpus, features, text
from labsupport.whisper import Transcriber, quantized, quantized_files
from labsupport.whisper.replay import step_at
from labsupport.whisper.torch_model import Whisper

Change = Callable[[Any], object]  # quantises a model in place
POSITION = 100  # of the decode step that is timed
GPTQ = {"int8 weights, corrected": Scheme(8), "int4 weights, channel, corrected": Scheme(4)}
COMPILED = ("float32, compiled", "int8 weights, compiled", "int8 integers, compiled")
FASTEST = "int8 integers, compiled, float16 attention"
LIBRARIES: dict[str, Change] = {
    "torch quantize_dynamic": lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True),
    "torchao int8 weights": lambda model: torchao.quantize_(model, torchao.Int8WeightOnlyConfig()),
    "torchao int8 dynamic": lambda model: torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig()),
}


def run(model: str, runs: int, clip: str) -> None:
    samples = audio.read(audio.clip(clip).path)
    plain = whisper.load(model, device="cpu")
    recording = Recording("quantization", plain.label, clip)
    mel = features.window(features.log_mel(samples, plain.model.config.mels), 0)[None]  # (1, mels, 3000)
    variants = load_variants(model, plain)
    for variant, loaded in variants.items():
        recording.value(f"size on disk: {variant}", bytes_on_disk(variant, loaded), "bytes", clip=None)
    compare_logits(variants, mel, recording)
    compare_parts(model, variants, mel, runs, recording)
    compare_transcriptions(variants, samples, runs, recording)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=children.end_with_parent) as alone:
        alone.submit(compare_peers, model, samples, runs, recording).result()
    for variant, loaded in variants.items():
        quantized.dequantize_model(torch_model(loaded))  # the same numbers, and a shorter wait
        record_error_rates(variant, partial(transcribe, loaded), recording)


# --- variants ---------------------------------------------------------------------------------------------------------


def load_variants(name: str, plain: Transcriber) -> dict[str, Transcriber]:
    """Name -> the model in this variant, ready to transcribe."""
    changes: dict[str, Change | None] = {"float32": None, **quantized.RECIPES, **dict.fromkeys(GPTQ)}
    changes |= dict.fromkeys((*COMPILED, FASTEST))
    changes |= {half: methodcaller("to", getattr(torch, half)) for half in ("bfloat16", "float16")}
    changes |= LIBRARIES
    calibration = audio.read(corpus.CORPUS / "train.ogg")
    hessians = quantized.record_hessians(torch_model(plain), lambda: plain.transcribe(calibration))
    return {variant: load(name, variant, change, hessians) for variant, change in changes.items()}


def load(name: str, variant: str, change: Change | None, hessians: dict) -> Transcriber:
    components: dict[str, Any] = {"attention": attend_in_half} if variant == FASTEST else {}
    loaded = whisper.load(name, device="cpu", compiled="compiled" in variant, **components)
    model = torch_model(loaded)
    if variant in GPTQ:
        make = quantized.gptq_factory(model, hessians, GPTQ[variant])
        quantized.quantize_model(model, make, embedding=quantized.QuantizedLinear.of)
    elif "compiled" in variant:
        quantized.RECIPES.get(variant.split(", ")[0], lambda model: model)(model)
        model.encoder.compile()
    elif change:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own function is deprecated
            change(model)
    return loaded


def torch_model(loaded: Transcriber) -> Whisper:
    assert isinstance(loaded.model, Whisper)
    return loaded.model


def attend_in_half(q, k, v, mask=None, causal=False) -> torch.Tensor:
    """Attention in float16 where there are many queries. One query does too little to pay for converting its keys."""
    if q.shape[2] == 1:
        return sdpa(q, k, v, mask=mask, causal=causal)
    return sdpa(q.half(), k.half(), v.half(), mask=mask, causal=causal).float()


# --- measurements -----------------------------------------------------------------------------------------------------


def compare_parts(name: str, variants: dict, mel: np.ndarray, runs: int, recording: Recording) -> None:
    """Encoder and decode step, and the most memory that either takes with its weights."""
    models = {each: torch_model(loaded) for each, loaded in variants.items()}
    encoders = {each: partial(model.encode, mel) for each, model in models.items()}
    steps = {each: step_at(m, m.new_cache(), encoders[each](), POSITION) for each, m in models.items()}
    sessions = {each: partial(s.run, None, {"mel": mel}) for each, s in open_sessions(name).items()}
    encoder = timing.compare({**encoders, **sessions}, runs=3 * runs, warmup=2)
    step = timing.compare(steps, runs=3 * runs, warmup=2)
    recording.comparison("encoder by precision", encoder)
    recording.comparison(f"decode step at {POSITION} by precision", step)
    for variant in variants.keys() - LIBRARIES.keys():  # which hide their weights from a count
        held = sum(tensor.nbytes for tensor in models[variant].state_dict().values())
        peak = held + max(timed[variant].peak_bytes or 0 for timed in (encoder, step))
        recording.value(f"weights and peak of encoder and step: {variant}", peak, "bytes", clip=None)


def open_sessions(name: str) -> dict:
    """ONNX Runtime's encoder, as exported and with its matrix products quantised."""
    graph = whisper_graphs.encoder(find_checkpoint(name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        quantize_dynamic(graph, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
        graphs = {"ONNX Runtime float32": graph.SerializeToString(), "ONNX Runtime int8": path}
        return {each: session.open_session(given) for each, given in graphs.items()}


def compare_transcriptions(variants: dict, samples: np.ndarray, runs: int, recording: Recording) -> None:
    """Weight-only variants are left out: they dequantise the whole token embedding in each step."""
    quick = {each: partial(v.transcribe, samples) for each, v in variants.items() if "weights" not in each}
    time_transcriptions(quick, samples, runs, recording)


def compare_peers(name: str, samples: np.ndarray, runs: int, recording: Recording) -> None:
    """CTranslate2, in a process of its own, where threads of torch cannot be in its way."""
    with tempfile.TemporaryDirectory() as folder:
        peers = {f"CTranslate2 {dtype}": open_peer(name, Path(folder), dtype) for dtype in ("float32", "int8")}
    time_transcriptions({each: partial(peer, samples) for each, peer in peers.items()}, samples, runs, recording)
    for each, peer in peers.items():
        record_error_rates(each, peer, recording)


def time_transcriptions(variants: Mapping[str, Callable], samples: np.ndarray, runs: int, recording: Recording) -> None:
    timed = timing.compare(variants, runs=runs, warmup=2, audio_seconds=len(samples) / audio.SAMPLE_RATE)
    recording.comparison("transcription by precision", timed)


def open_peer(name: str, folder: Path, dtype: str) -> Callable[[np.ndarray], str]:
    """audio -> text by faster-whisper on the packaged weights, which are CTranslate2's own files."""
    parts = [find_part(*part) for part in PACKAGED[name].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    peer = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type=dtype, cpu_threads=2)

    def transcribe(samples: np.ndarray) -> str:
        segments, _ = peer.transcribe(samples, beam_size=1, temperature=0, condition_on_previous_text=False)
        return "".join(segment.text for segment in segments)

    return transcribe


def transcribe(loaded: Transcriber, samples: np.ndarray) -> str:
    return loaded.transcribe(samples).text


def bytes_on_disk(variant: str, loaded: Transcriber) -> int:
    """Of a file: safetensors with float16 beside codes, or, of a library's variant, what torch.save writes."""
    if variant in LIBRARIES:
        buffer = io.BytesIO()
        torch.save(torch_model(loaded).state_dict(), buffer)
        return buffer.tell()
    if not variant.startswith("int"):
        return sum(tensor.nbytes for tensor in torch_model(loaded).state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        quantized_files.save(torch_model(loaded), path)
        return path.stat().st_size


def compare_logits(variants: dict[str, Transcriber], mel: np.ndarray, recording: Recording) -> None:
    """The largest difference of any logit from float32's, over the clip's own text."""
    tokenizer = variants["float32"].tokenizer
    tokens = np.array([[tokenizer.sot, *tokenizer.encode(audio.clip(recording.clip or "jfk").text)]])  # (1, length)
    logits = {variant: compute_logits(loaded.model, mel, tokens) for variant, loaded in variants.items()}
    for variant, found in logits.items():
        recording.value(f"largest score error: {variant}", np.abs(found - logits["float32"]).max(), "logits")


def compute_logits(model, mel: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(1, length, vocab) of one prefill"""
    cache = model.new_cache()
    model.project_cross_kv(model.encode(mel), cache)
    return model.prefill(tokens, cache)


def record_error_rates(variant: str, transcribe: Callable[[np.ndarray], str], recording: Recording) -> None:
    """Of the clips, and of the corpus' held-out sentences one after the other."""
    held_out = audio.read(corpus.CORPUS / "held_out.ogg"), " ".join(each.text for each in corpus.load("held_out"))
    clips = {clip.name: (audio.read(clip.path), clip.text) for clip in map(audio.clip, ("jfk", "narration"))}
    for name, (samples, reference) in {**clips, "held-out sentences": held_out}.items():
        rate = 100 * text.wer(reference, transcribe(samples))
        recording.value(f"word error rate: {variant}", rate, "%", clip=name)
