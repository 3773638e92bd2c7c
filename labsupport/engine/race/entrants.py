"""Who takes part: a line for each named configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labsupport.base.errors import EngineError

OURS = "labsupport.engine.race.ours:open_ours"
PEERS = "labsupport.engine.race.peers:"
NO_TIMES = "without timestamps"
GROUP = "race"  # of the rows
TIME = "transcription"  # what the row of an entrant's time begins with
DOES_NOT_COUNT = "does not count"  # in the note of one that did not do the work
SHORT = "short sound is not filled up to 30 s"


@dataclass(frozen=True)
class Entrant:
    """One configuration of an engine.

    Args:
        opener: "module:function", as `running.make_tasks` calls it.
        form: of the model, see `conversions`; None is Hugging Face's folder.
        settings: for the opener.
        package: whose version a row names.
        home: the environment that it runs in: the lab's own, or the race's.
        differs: in what it cannot do as the others.
        arithmetic: of its encoder's matrix products, and of the decoder's weights, for the roofline.
        warmup: transcriptions before the rounds.
    """

    name: str
    opener: str
    form: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str = "speech-inference-lab"
    home: str = "lab"
    differs: str = ""
    arithmetic: str = "float32"
    warmup: int = 1

    @property
    def is_ours(self) -> bool:
        return self.opener == OURS


def ours(name: str, engine: str, differs: str = "", arithmetic: str = "float32", **settings) -> Entrant:
    return Entrant(name, OURS, settings={"engine": engine, **settings}, differs=differs, arithmetic=arithmetic)


def transformers(name: str, warmup: int = 1, **settings) -> Entrant:
    return Entrant(name, f"{PEERS}open_transformers", settings=settings, package="transformers", warmup=warmup)


def faster_whisper(dtype: str, batch: int = 1) -> Entrant:
    name = f"faster-whisper {dtype}" + (f", batch {batch}" if batch > 1 else "")
    settings = {"dtype": {"fp32": "float32"}.get(dtype, dtype), "batch": batch}
    differs = f"{NO_TIMES}; its own VAD cuts" if batch > 1 else ""
    return Entrant(name, f"{PEERS}open_faster_whisper", "ctranslate2", settings, "faster-whisper", differs=differs)


def whisper_cpp(kind: str) -> Entrant:
    differs = "its wheel computes with AVX2 at most"
    return Entrant(
        f"whisper.cpp {kind}", f"{PEERS}open_whisper_cpp", f"ggml-{kind}", {}, "pywhispercpp", "race", differs
    )


def openvino(dtype: str) -> Entrant:
    name, form = f"openvino-genai {dtype}", f"openvino-{dtype}"
    return Entrant(name, f"{PEERS}open_openvino", form, package="openvino-genai", home="race")


def sherpa(dtype: str, form: str) -> Entrant:
    differs = f"{NO_TIMES}; 29 s at most, which we cut; nothing suppressed; {SHORT}"
    return Entrant(f"sherpa-onnx {dtype}", f"{PEERS}open_sherpa", form, {}, "sherpa-onnx", "race", differs)


ENTRANTS = (
    transformers("transformers"),
    transformers("transformers, batch 16", batch=16),
    transformers("transformers, static cache, compiled", warmup=3, compiled=True),  # new shapes compile a few times
    Entrant("openai-whisper", f"{PEERS}open_openai", "openai", {"batch": 16}, "openai-whisper", "race"),
    faster_whisper("fp32"),
    faster_whisper("int8"),
    faster_whisper("int8", batch=4),
    faster_whisper("int8", batch=8),
    faster_whisper("int8", batch=16),
    whisper_cpp("f16"),
    whisper_cpp("q8_0"),
    Entrant("optimum-onnx", f"{PEERS}open_optimum", "onnx", {"batch": 16}, "optimum-onnx", "race"),
    openvino("int8"),
    openvino("fp16"),
    sherpa("fp32", "sherpa"),
    sherpa("int8", "sherpa-int8"),
    ours("ours, torch", "torch"),
    ours("ours, torch, batch 4", "torch", batch=4, differs=NO_TIMES),
    ours("ours, onnx", "onnx"),
    ours("ours, onnx, batch 4, VAD", "onnx", batch=4, vad=True, differs=f"{NO_TIMES}; our VAD cuts"),
    ours("ours, fast", "fast", SHORT, "int8"),
    ours("ours, fast, batch 8, VAD", "fast", f"{NO_TIMES}; our VAD cuts, at 15 s; {SHORT}", "int8", batch=8, vad=True),
    ours(
        "ours, fast, batch 16, VAD", "fast", f"{NO_TIMES}; our VAD cuts, at 15 s; {SHORT}", "int8", batch=16, vad=True
    ),
)


def choose(asked: str | None, known: Sequence[Entrant] = ENTRANTS) -> list[Entrant]:
    """The entrants of these names, or whose names begin so, with semicolons between them; by default all.

    Raises:
        EngineError: there is none.
    """
    if asked is None:
        return list(known)
    found = {each.name: each for part in asked.split(";") for each in find(part.strip(), known)}
    return list(found.values())


def find(beginning: str, known: Sequence[Entrant]) -> list[Entrant]:
    exact = [each for each in known if each.name == beginning]
    matching = exact or [each for each in known if beginning and each.name.startswith(beginning)]
    if not matching:
        raise EngineError(f"No entrant is called {beginning!r}.", hint="; ".join(each.name for each in known))
    return matching
