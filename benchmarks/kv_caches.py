"""The caches against each other and against reading alone: a decode step at several positions, and texts side
by side (beams, a batch of windows, both), as a real beam search asks for them.

    .venv/bin/python benchmarks/kv_caches.py [MODEL] [RUNS]

One process, variants in turns. Rows go where a notebook's go (`LAB_RESULTS`, else `.lab/results`). On torch it needs a
C++ compiler; `LAB_BACKEND=mindspore` measures the twin.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from labsupport import audio, measure, rows, whisper
from labsupport.arrays import xp
from labsupport.optim import kv_cache
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache
from labsupport.whisper import decode, features

CLIP, GROUP = "narration", "kv_caches"
POSITIONS = (4, 50, 100, 220, 440)
STEPS = 30  # of each beam search


class CrossForEachBeam(DynamicCache):
    """As article B before its first change, and as most libraries: a window's sound is repeated for each beam."""

    def windows_of(self, chosen):
        return chosen // (self.rows // kv_cache.len_of(self.cross))


KINDS = {"dynamic": DynamicCache, "padded": PaddedCache, "static": StaticCache}


def main(name: str = "base", runs: int = 15) -> None:
    plain = whisper.load(name)
    speech = audio.read(audio.clip(CLIP).path)
    mels = np.stack([features.log_mel(part, plain.model.config.mels) for part in audio.windows(speech)])
    models = {kind: (plain.model, cache) for kind, cache in KINDS.items()}
    if xp.name == "torch":
        graph = whisper.load(name, compiled=True).model
        models |= {f"{kind}, compiled": (graph, KINDS[kind]) for kind in ("dynamic", "static")}
    sound = plain.model.encode(mels[:1])
    compile_seconds = {variant: time_first_step(*pair, sound) for variant, pair in models.items()}
    graphs = xp.graphs_compiled()
    compare_positions(plain, models, sound, runs, compile_seconds)
    report("graphs compiled after the warm-up", xp.graphs_compiled() - graphs, "graphs", name)
    for beams, windows in ((5, 1), (1, 4), (5, 4)):
        compare_texts(plain, models, mels[:windows], beams, runs)


def report(what: str, value: float, unit: str, model: str, **details) -> None:
    rows.record(what, value, unit, model=model, clip=CLIP, group=GROUP, **details)
    print(f"{what}: {value:.4g} {unit}")


# --- one text ---------------------------------------------------------------------------------------------------------


def step_at(model, kind, sound, position: int):
    """A step at `position`, again and again."""
    cache = kind()
    model.step(np.full((len(sound), position), 1000), sound, cache)
    own, token = cache.own, np.full((len(sound), 1), 1000)

    def step():
        cache.own, cache.length = own, position
        return model.step(token, sound, cache)

    return step


def time_first_step(model, kind, sound) -> float:
    """Seconds of the first step of this kind less those of the second: what compiling costs."""
    step, seconds = step_at(model, kind, sound, 4), []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[0] - seconds[1]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.abs(a - b).max()) < 1e-3


def reading_alone(config, position: int, like, scores: np.ndarray):
    """One matrix times a vector that reads as many bytes as a step must; gives the step's scores, which it is handed.

    It takes its turn with the steps, so that a neighbour who takes bandwidth away takes it from all.
    """
    width, count = 1024, sum(kv_cache.step_bytes(config, position).values()) // 4
    matrix, vector = xp.full((count // width, width), 1.0, like), xp.full((width, 1), 1.0, like)
    return lambda: (matrix @ vector, scores)[1]


def compare_positions(plain, models: dict, sound, runs: int, compile_seconds: dict) -> None:
    like = xp.asarray(np.zeros(1, np.float32))
    for position in POSITIONS:
        work = {name: step_at(model, kind, sound, position) for name, (model, kind) in models.items()}
        work["reading alone"] = reading_alone(plain.model.config, position, like, work["dynamic"]())
        timed = measure.compare(work, runs=3 * runs, warmup=3, check=close)
        timed.record(f"decode step at {position}", model=plain.label, clip=CLIP, group=GROUP)
        print(f"\nposition {position}\n{timed}")
        for name in models:
            ratio = timed.speedup(name, "reading alone")
            report(f"decode step at {position}, times the reading alone: {name}", ratio.value, "times",
                   plain.label, spread=ratio.value - ratio.low, runs=3 * runs)  # fmt: skip
    for name in (name for name in models if "compiled" in name):
        saved = timed[name.removesuffix(", compiled")].median - timed[name].median
        report(f"compile: {name}", compile_seconds[name], "s", plain.label)
        if saved > 0:
            report(f"break-even: {name}", compile_seconds[name] / saved, "tokens", plain.label)


# --- texts side by side -----------------------------------------------------------------------------------------------


class Recorder:
    """A model that writes down what a search asks of it."""

    def __init__(self, model):
        self.model, self.config, self.calls = model, model.config, []

    def new_cache(self):
        return DynamicCache()

    def step(self, tokens, sound, cache):
        self.calls.append(("step", tokens.copy()))
        return self.model.step(tokens, sound, cache)

    def reorder(self, chosen, cache):
        self.calls.append(("reorder", chosen.copy()))
        self.model.reorder(chosen, cache)

    def keep(self, chosen, sound, cache):
        self.calls.append(("keep", chosen.copy()))
        return self.model.keep(chosen, sound, cache)


def replay(model, kind, sound, calls) -> np.ndarray:
    """The same steps with a cache of this kind, without the search around them; gives the last logits."""
    cache = kind()
    for call, given in calls:
        if call == "step":
            logits = model.step(given, sound, cache)
        elif call == "reorder":
            model.reorder(given, cache)
        else:
            sound = model.keep(given, sound, cache)
    return logits


def compare_texts(plain, models: dict, mels: np.ndarray, beams: int, runs: int) -> None:
    recorder, sound = Recorder(plain.model), plain.model.encode(mels)
    language = "en" if plain.model.config.multilingual else None
    prompt = decode.make_prompt(plain.tokenizer, language, timestamps=False)
    rules = replace(plain.rules, timestamps=False)
    if beams == 1:
        decode.greedy(recorder, sound, prompt, rules, STEPS)
    else:
        decode.beam_search(recorder, sound, prompt, rules, beams, STEPS)
    models = {**models, "dynamic, sound for each beam": (plain.model, CrossForEachBeam)} if beams > 1 else models
    work = {
        name: lambda model=model, kind=kind: replay(model, kind, sound, recorder.calls)
        for name, (model, kind) in models.items()
    }
    timed = measure.compare(work, runs=runs, check=close)
    what = f"{STEPS} steps, {len(mels)} windows, {beams} beams"
    timed.record(what, model=plain.label, clip=CLIP, group=GROUP)
    moved = [np.mean(given != np.arange(len(given))) for call, given in recorder.calls if call == "reorder"]
    print(f"\n{what}; a reordering moves {100 * np.mean(moved or [0]):.0f} % of the rows\n{timed}")
    gain = timed.speedup("dynamic", "static")
    report(f"{what}: static against dynamic", gain.value, "times", plain.label, spread=gain.value - gain.low, runs=runs)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
