"""The KV caches against each other and against the time to read a step's bytes, from one step to a whole beam search.

    ./lab bench kv_caches --model base --runs 15 --clip narration

A decode step at several positions, for one text and for several side by side: beams, a batch of windows, both. One
process, variants in turns. On torch it needs a C++ compiler; `LAB_BACKEND=mindspore` measures the twin.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache, count_rows, moved_bytes, step_bytes
from labsupport.results import timing
from labsupport.results.recording import Recording
from labsupport.speech import audio, features
from labsupport.whisper import Transcriber
from labsupport.whisper.replay import Recorder, bandwidth_floor, replay, step_at
from labsupport.whisper.search import beam_search
from labsupport.whisper.token_filters import make_prompt

POSITIONS = (4, 50, 100, 220, 440)
SIDE_BY_SIDE = ((5, 1), (1, 4), (5, 4))  # beams, windows
STEPS = 30  # of a beam search
FLOOR = "reading alone"  # the name of `bandwidth_floor` in rows


class CrossForEachBeam(DynamicCache):
    """As article B before its first change, and as most libraries: a window's keys and values stand once for a beam."""

    def select_windows(self, rows):
        return rows // (self.rows // count_rows(self.cross_kv))


KINDS = {"dynamic": DynamicCache, "padded": PaddedCache, "static": StaticCache}


def run(model: str, runs: int, clip: str) -> None:
    plain = whisper.load(model, compiled=False)
    recording = Recording("kv_caches", plain.label, clip)
    samples = audio.read(audio.clip(clip).path)
    mels = np.stack([features.log_mel(part, plain.model.config.mels) for part in audio.windows(samples)])
    models = {kind: (plain.model, cache) for kind, cache in KINDS.items()}
    if xp.name == "torch":
        graph = whisper.load(model, compiled=True).model
        models |= {f"{kind}, compiled": (graph, KINDS[kind]) for kind in ("dynamic", "static")}
    encoder_out = plain.model.encode(mels[:1])
    compile_seconds = {name: time_compiling(*pair, encoder_out) for name, pair in models.items() if "," in name}
    graphs = xp.graphs_compiled()
    compare_positions(plain, models, encoder_out, 3 * runs, compile_seconds, recording)
    recording.value("graphs compiled after the warm-up", xp.graphs_compiled() - graphs, "graphs")
    models.pop("dynamic, compiled", None)  # it would compile again for every number of texts
    for beams, windows in SIDE_BY_SIDE:
        compare_side_by_side(plain, models, plain.model.encode(mels[:windows]), beams, runs, recording)
    for windows in (1, 4):
        compare_search(plain, models, plain.model.encode(mels[:windows]), 5, runs, recording)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return float(np.abs(a - b).max()) < 1e-3


# --- one text ---------------------------------------------------------------------------------------------------------


def time_compiling(model, kind: type, encoder_out) -> float:
    """Seconds of the first step of this kind less those of the second."""
    step, seconds = step_at(model, kind(), encoder_out, 5), []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[0] - seconds[1]


def products_alone(model, cache: DynamicCache, result: np.ndarray) -> Callable[[], np.ndarray]:
    """torch's products with all that a step reads, piece by piece and on nothing; gives `result`.

    Between this and `bandwidth_floor` lies what it costs to read in many small pieces; between this and a step, all
    that is no product.
    """
    import torch
    from torch.nn import functional as F

    decoder, query = model.decoder, torch.ones(1, model.config.heads, 1, model.config.head_dim)
    cross = {part for layer in decoder.layers for part in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)}
    linears = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear) and module not in cross]
    inputs = {width: torch.ones(1, 1, width) for width in {linear.in_features for linear in linears}}

    @torch.inference_mode()
    def run() -> np.ndarray:
        for linear in linears:
            linear(inputs[linear.in_features])
        for keys, values in [*cache.active_cross_kv(), *cache.past_kv(0)]:
            F.scaled_dot_product_attention(query, keys, values)
        F.linear(inputs[model.config.d_model], decoder.embed_tokens.weight)
        return result

    return run


def compare_positions(
    plain: Transcriber, models: dict, encoder_out, runs: int, compile_seconds: dict[str, float], recording: Recording
) -> None:
    for position in POSITIONS:
        timed = compare_at(plain, models, encoder_out, position, runs)
        recording.comparison(f"decode step at {position}", timed)
        for name in set(timed.measurements) - {FLOOR}:
            ratio = timed.speedup(name, FLOOR)
            what = f"decode step at {position}, times the {FLOOR}: {name}"
            recording.value(what, ratio.value, "times", spread=ratio.value - ratio.low, runs=runs)
    for name, seconds in compile_seconds.items():
        saved = timed[name.removesuffix(", compiled")].median - timed[name].median
        recording.value(f"compile: {name}", seconds, "s")
        if saved > 0:
            recording.value(f"break-even: {name}", seconds / saved, "tokens")


def compare_at(plain: Transcriber, models: dict, encoder_out, position: int, runs: int) -> timing.Comparison:
    """One text's step with every cache, its products alone, and its bytes read once."""
    like = xp.asarray(np.zeros(1, np.float32))
    caches = {name: kind() for name, (_, kind) in models.items()}
    steps = {name: step_at(model, caches[name], encoder_out, position) for name, (model, _) in models.items()}
    logits = steps["dynamic"]()
    if xp.name == "torch":
        steps["its products alone"] = products_alone(plain.model, caches["static"], logits)
    steps[FLOOR] = bandwidth_floor(sum(step_bytes(plain.model.config, position).values()), like, logits)
    return timing.compare(steps, runs=runs, warmup=3, check=close)


# --- texts side by side -----------------------------------------------------------------------------------------------


def compare_side_by_side(
    plain: Transcriber, models: dict, encoder_out, beams: int, runs: int, recording: Recording
) -> None:
    """A step of many texts and, with beams, a reordering in which every window's last beam goes on from its first."""
    windows, config = len(encoder_out), plain.model.config
    rows = np.arange(windows * beams)
    rows[beams - 1 :: beams] = rows[::beams]
    for position in (4, 220, 440):
        steps = {
            name: step_at(model, kind(), encoder_out, position, beams, rows if beams > 1 else None)
            for name, (model, kind) in models.items()
        }
        timed = timing.compare(steps, runs=runs, warmup=2, check=close)
        what = f"decode step at {position}, {windows} windows, {beams} beams"
        recording.comparison(what, timed)
        needed = sum(step_bytes(config, position, beams * windows, windows).values())
        moved = moved_bytes(config, position, beams * windows)["DynamicCache"]
        print(f"{needed / 1e6:.0f} MB to read; growing moves {moved / 1e6:.0f} MB more")
        record_gain(timed, what, runs, recording)


def record_gain(timed: timing.Comparison, what: str, runs: int, recording: Recording) -> None:
    gain = timed.speedup("dynamic", "static")
    name = f"{what}: static against dynamic"
    recording.value(name, gain.value, "times", spread=gain.value - gain.low, runs=runs)


def compare_search(plain: Transcriber, models: dict, encoder_out, beams: int, runs: int, recording: Recording) -> None:
    """The steps that a real beam search asks for."""
    recorder, language = Recorder(plain.model), "en" if plain.model.config.multilingual else None
    prompt = make_prompt(plain.tokenizer, language, timestamps=False)
    beam_search(recorder, encoder_out, prompt, replace(plain.rules, timestamps=False), beams, STEPS)
    models = {**models, "dynamic, sound for each beam": (plain.model, CrossForEachBeam)}
    searches = {
        name: lambda model=model, kind=kind: replay(model, kind(), encoder_out, recorder.calls)
        for name, (model, kind) in models.items()
    }
    timed = timing.compare(searches, runs=runs, check=close)
    what = f"{STEPS} steps, {len(encoder_out)} windows, {beams} beams"
    recording.comparison(what, timed)
    moved = [np.mean(rows != np.arange(len(rows))) for call, rows in recorder.calls if call == "reorder_beams"]
    print(f"a reordering moves {100 * np.mean(moved):.0f} % of the rows")
    record_gain(timed, what, runs, recording)
