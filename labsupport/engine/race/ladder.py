"""Notebook 15's ladder as entrants of a race: one optimisation after the other, then each of the engine's left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from labsupport.engine.race.entrants import NO_TIMES, Entrant, ours
from labsupport.engine.race.results import Outcome, interval
from labsupport.machine.backend import choose_backend
from labsupport.results import rows

GROUP = "ladder"
BATCH = 8  # windows side by side
SWITCHES = {  # what the fast engine can do without -> its rung
    "bfloat16": "arithmetic in bfloat16",
    "encoder_weights": "int8 weights in the encoder",
    "encoder_inputs": "int8 inputs in the encoder",
    "decoder_weights": "int8 weights in the decoder",
    "cache": "uint8 keys and values of the text",
    "batch": "windows side by side",
    "short_context": "short windows",
}
FRAMEWORK = {  # the rungs before any engine, plain first: what `whisper.load` is given
    "torch, attention written out": {"attn_implementation": "eager"},
    "torch, fused attention": {},
}
MINDSPORE: dict[str, dict[str, Any]] = {  # its ladder
    "MindSpore, operation by operation": {"compiled": False},
    "MindSpore, each step one graph": {},
    "MindSpore, static cache": {"compiled": True},
}
GRAPHS = "own graphs on OpenVINO"
WHOLE = f"+ {SWITCHES['short_context']}"  # the last rung


def rungs() -> list[Entrant]:
    """Each as the one before with one change; under LAB_BACKEND=mindspore MindSpore's."""
    if choose_backend() == "mindspore":
        return [ours(name, "mindspore", **how) for name, how in MINDSPORE.items()]
    entrants = [
        *(ours(name, "torch", **how) for name, how in FRAMEWORK.items()),
        replace(ours("torch, static cache, compiled", "torch", compiled=True), warmup=3),  # new shapes compile
        ours("ONNX graphs on ONNX Runtime", "onnx"),
        fast(GRAPHS, ()),
    ]
    names = list(SWITCHES)
    return entrants + [fast(f"+ {SWITCHES[name]}", names[: i + 1]) for i, name in enumerate(names)]


def ablations() -> list[Entrant]:
    """The whole engine without one of its parts; none beside MindSpore's rungs."""
    if choose_backend() == "mindspore":
        return []
    return [fast(f"without {label}", set(SWITCHES) - {name}) for name, label in SWITCHES.items()]


def fast(name: str, on: Collection[str]) -> Entrant:
    """The fast engine with these of SWITCHES alone."""
    off = [each for each in SWITCHES if each not in on and each != "batch"]
    settings = {"off": off, "batch": BATCH, "vad": True} if "batch" in on else {"off": off}
    arithmetic = "int8" if "decoder_weights" in on else "bfloat16" if "bfloat16" in on else "float32"
    return ours(name, "fast", NO_TIMES if "batch" in on else "", arithmetic, **settings)


def record(outcome: Outcome, model: str) -> None:
    """A row for each rung's gain over the one before, and for what the whole engine gains by each of its parts."""
    for label, fast_one, slow_one in pairs(outcome):
        faster, slower = outcome.find(fast_one), outcome.find(slow_one)
        value, low, high = interval(outcome.gain(faster, slower))
        shared = {"group": GROUP, "model": model, "clip": outcome.contest.sound.name}
        note = f"{faster.timed.median:.3g} s in place of {slower.timed.median:.3g} s"
        rows.record(
            f"gain: {label}", value, "times", low=low, high=high, runs=len(faster.timed.wall), note=note, **shared
        )
        cost = 100 * (faster.score.wer - slower.score.wer)
        rows.record(f"word error rate, change: {label}", cost, "%", **shared)


def pairs(outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    """Label, and the names of the faster and the slower, of those that finished."""
    finished = {each.entrant.name for each in outcome.results}
    ladder = [each.name for each in rungs() if each.name in finished]
    yield from ((after, after, before) for before, after in pairwise(ladder))
    if WHOLE in finished:
        yield from ((name, WHOLE, name) for name in (each.name for each in ablations()) if name in finished)
