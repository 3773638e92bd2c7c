"""The caches against each other and against reading alone, from a single step to a real beam search.

A decode step at several positions, for one text and for several side by side: beams, a batch of windows, both.

    .venv/bin/python benchmarks/kv_caches.py [MODEL] [RUNS]

One process, variants in turns. Rows go where a notebook's go (`LAB_RESULTS`, else `.lab/results`). On torch it needs a
C++ compiler; `LAB_BACKEND=mindspore` measures the twin.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache, len_of, moved_bytes, step_bytes
from labsupport.results import rows, timing
from labsupport.speech import audio, features
from labsupport.whisper.replay import Recorder, reading_alone, replay, step_at
from labsupport.whisper.search import beam_search
from labsupport.whisper.token_filters import make_prompt

CLIP, GROUP = "narration", "kv_caches"
POSITIONS = (4, 50, 100, 220, 440)
SIDE_BY_SIDE = ((5, 1), (1, 4), (5, 4))  # beams, windows
STEPS = 30  # of a beam search


class CrossForEachBeam(DynamicCache):
    """As article B before its first change, and as most libraries: a window's sound is repeated for each beam."""

    def windows_of(self, chosen):
        return chosen // (self.rows // len_of(self.cross))


KINDS = {"dynamic": DynamicCache, "padded": PaddedCache, "static": StaticCache}


def main(name: str = "base", runs: int = 15) -> None:
    plain = whisper.load(name, compiled=False)
    speech = audio.read(audio.clip(CLIP).path)
    mels = np.stack([features.log_mel(part, plain.model.config.mels) for part in audio.windows(speech)])
    models = {kind: (plain.model, cache) for kind, cache in KINDS.items()}
    if xp.name == "torch":
        graph = whisper.load(name, compiled=True).model
        models |= {f"{kind}, compiled": (graph, KINDS[kind]) for kind in ("dynamic", "static")}
    sound = plain.model.encode(mels[:1])
    compile_seconds = {variant: time_compiling(*pair, sound) for variant, pair in models.items() if "," in variant}
    graphs = xp.graphs_compiled()
    compare_positions(plain, models, sound, 3 * runs, compile_seconds)
    report("graphs compiled after the warm-up", xp.graphs_compiled() - graphs, "graphs", plain.label)
    models.pop("dynamic, compiled", None)  # it would compile again for every number of texts
    for beams, windows in SIDE_BY_SIDE:
        compare_side_by_side(plain, models, plain.model.encode(mels[:windows]), beams, runs)
    for windows in (1, 4):
        compare_search(plain, models, plain.model.encode(mels[:windows]), 5, runs)


def report(what: str, value: float, unit: str, model: str, **details) -> None:
    rows.record(what, value, unit, model=model, clip=CLIP, group=GROUP, **details)
    print(f"{what}: {value:.4g} {unit}")


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.abs(a - b).max()) < 1e-3


# --- one text ---------------------------------------------------------------------------------------------------------


def time_compiling(model, kind, sound) -> float:
    """Seconds of the first step of this kind less those of the second."""
    step, seconds = step_at(model, kind(), sound, 5), []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[0] - seconds[1]


def products_alone(model, cache: DynamicCache, result: np.ndarray) -> Callable[[], np.ndarray]:
    """torch's products with all that a step reads, piece by piece and on nothing; gives `result`.

    Between this and `reading_alone` stands what it costs to read in many small pieces; between this and a step, all
    that is no product.
    """
    import torch
    from torch.nn import functional as F

    decoder, query = model.decoder, torch.ones(1, model.config.heads, 1, model.config.head_dim)
    heard = {
        projection for layer in decoder.layers for projection in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    }
    linears = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear) and module not in heard]
    inputs = {width: torch.ones(1, 1, width) for width in {linear.in_features for linear in linears}}

    @torch.inference_mode()
    def run() -> np.ndarray:
        for linear in linears:
            linear(inputs[linear.in_features])
        for keys, values in [*cache.heard(), *cache.past(0)]:
            F.scaled_dot_product_attention(query, keys, values)
        F.linear(inputs[model.config.d_model], decoder.embed_tokens.weight)
        return result

    return run


def compare_positions(plain, models: dict, sound, runs: int, compile_seconds: dict) -> None:
    like = xp.asarray(np.zeros(1, np.float32))
    for position in POSITIONS:
        caches = {name: kind() for name, (_, kind) in models.items()}
        work = {name: step_at(model, caches[name], sound, position) for name, (model, _) in models.items()}
        logits = work["dynamic"]()
        if xp.name == "torch":
            work["its products alone"] = products_alone(plain.model, caches["static"], logits)
        work["reading alone"] = reading_alone(sum(step_bytes(plain.model.config, position).values()), like, logits)
        timed = timing.compare(work, runs=runs, warmup=3, check=close)
        timed.record(f"decode step at {position}", model=plain.label, clip=CLIP, group=GROUP)
        print(f"\nposition {position}\n{timed}")
        for name in work.keys() - {"reading alone"}:
            ratio = timed.speedup(name, "reading alone")
            report(f"decode step at {position}, times the reading alone: {name}", ratio.value, "times",
                   plain.label, spread=ratio.value - ratio.low, runs=runs)  # fmt: skip
    for name, seconds in compile_seconds.items():
        saved = timed[name.removesuffix(", compiled")].median - timed[name].median
        report(f"compile: {name}", seconds, "s", plain.label)
        if saved > 0:
            report(f"break-even: {name}", seconds / saved, "tokens", plain.label)


# --- texts side by side -----------------------------------------------------------------------------------------------


def compare_side_by_side(plain, models: dict, sound, beams: int, runs: int) -> None:
    """A step of many texts and, with beams, a reordering in which every window's last beam goes on from its first."""
    windows = len(sound)
    chosen = np.arange(windows * beams)
    chosen[beams - 1 :: beams] = chosen[::beams]
    for position in (4, 220, 440):
        work = {
            name: step_at(model, kind(), sound, position, beams, chosen if beams > 1 else None)
            for name, (model, kind) in models.items()
        }
        timed = timing.compare(work, runs=runs, warmup=2, check=close)
        what = f"decode step at {position}, {windows} windows, {beams} beams"
        timed.record(what, model=plain.label, clip=CLIP, group=GROUP)
        must = sum(step_bytes(plain.model.config, position, beams * windows, windows).values())
        moved = moved_bytes(plain.model.config, position, beams * windows)["DynamicCache"]
        print(f"\n{what}: {must / 1e6:.0f} MB to read; growing moves {moved / 1e6:.0f} MB more\n{timed}")
        report_gain(timed, what, plain.label, runs)


def report_gain(timed: timing.Comparison, what: str, model: str, runs: int) -> None:
    gain = timed.speedup("dynamic", "static")
    report(f"{what}: static against dynamic", gain.value, "times", model, spread=gain.value - gain.low, runs=runs)


def compare_search(plain, models: dict, sound, beams: int, runs: int) -> None:
    """The steps that a real beam search asks for."""
    recorder, language = Recorder(plain.model), "en" if plain.model.config.multilingual else None
    prompt = make_prompt(plain.tokenizer, language, timestamps=False)
    beam_search(recorder, sound, prompt, replace(plain.rules, timestamps=False), beams, STEPS)
    models = {**models, "dynamic, sound for each beam": (plain.model, CrossForEachBeam)}
    work = {
        name: lambda model=model, kind=kind: replay(model, kind(), sound, recorder.calls)
        for name, (model, kind) in models.items()
    }
    timed = timing.compare(work, runs=runs, check=close)
    what = f"{STEPS} steps, {len(sound)} windows, {beams} beams"
    timed.record(what, model=plain.label, clip=CLIP, group=GROUP)
    moved = [np.mean(given != np.arange(len(given))) for call, given in recorder.calls if call == "reorder"]
    print(f"\n{what}; a reordering moves {100 * np.mean(moved):.0f} % of the rows\n{timed}")
    report_gain(timed, what, plain.label, runs)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
