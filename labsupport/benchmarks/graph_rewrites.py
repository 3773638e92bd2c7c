"""Article B's four graph rewrites on the whole loop decoder: how long a step of beam 5 takes, form by form.

    ./lab bench graph_rewrites --model base --runs 30 --clip narration

Real weights, real speech, 100 tokens of real text in the cache; all forms in turns in one process, first without and
then with ONNX Runtime's own optimiser.
"""

from __future__ import annotations

import functools

import numpy as np

from labsupport import whisper
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.graphs import passes, whisper_graphs
from labsupport.graphs.loop import Loop, past_after, project_cross_kv
from labsupport.results import timing
from labsupport.results.recording import Recording
from labsupport.speech import audio, features

TOKENS = 100


def run(model: str, runs: int, clip: str) -> None:
    checkpoint = find_checkpoint(model)
    recording = Recording("graph_rewrites", checkpoint.label, clip)
    forms = make_forms(checkpoint)
    cross_kv, past, tokens = make_inputs(checkpoint, next(iter(forms.values())), clip)
    for optimise in (False, True):
        settings = "optimiser on" if optimise else "optimiser off"
        loops = {name: Loop(form, cross_kv, past, optimise=optimise) for name, form in forms.items()}
        steps = {name: functools.partial(loop.run, tokens) for name, loop in loops.items()}
        timed = timing.compare(steps, runs=runs, warmup=3, check=same_logits)
        note = f"position {TOKENS}, beam 5, ONNX Runtime's {settings}"
        recording.comparison(f"loop decoder {settings}", timed, note=note)


def make_forms(checkpoint) -> dict:
    """Name -> graph: the article's first form, then one pass after the other."""
    forms = {"article's first form": whisper_graphs.decoder_step(checkpoint)}
    for name, rewrite in passes.PASSES.items():
        forms[f"+ {name}"] = rewrite(list(forms.values())[-1])
    return forms


def make_inputs(checkpoint, first, clip: str) -> tuple:
    """Cross-attention over the clip's first window, a past of real text, and the next token of every beam."""
    card = audio.clip(clip)
    mel = features.window(features.log_mel(audio.read(card.path), checkpoint.config.mels), 0)[None]
    transcriber = whisper.load(checkpoint.name, "torch", "cpu")
    cross_kv = project_cross_kv(checkpoint, transcriber.model.encode(mel).numpy())
    tokens = transcriber.tokenizer.encode(card.text)[: TOKENS + 1]
    return cross_kv, past_after(first, checkpoint, cross_kv, tokens[:-1]), np.full(5, tokens[-1])


def same_logits(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() < 1e-4)
