"""What the race asks of an engine in its process: load, then transcribe the same sound again and again.

Nothing here or in `peers` may import what only the lab's own environment has, unless inside a function: other engines
run in the race's.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOMENT = 3200  # samples, 0.2 s: in so short a time one is quiet between two words
Clips = Sequence[np.ndarray]  # each (n,) float32, mono, 16 kHz


@dataclass(frozen=True)
class Answer:
    """A text for each clip; how many tokens the engine says that it made, where it says so."""

    texts: list[str]
    tokens: int | None = None


@dataclass(frozen=True)
class Running:
    """A loaded engine. split: seconds and calls of each part of one transcription, where the engine can say."""

    transcribe: Callable[[Clips], Answer]
    split: Callable[[Clips], dict[str, dict[str, float]]] | None = None


def make_tasks(order: str) -> dict[str, Callable[[], object]]:
    """The tasks of `results.worker` for one entrant.

    order: JSON with `opener` ("module:function"), `folder`, `threads`, `multilingual`, `settings`, and `clips`, the
        paths of NumPy's files. The opener is called as opener(folder, threads, multilingual, **settings).
    """
    given = json.loads(order)
    clips = [np.load(path) for path in given["clips"]]  # before anything is timed
    module, function = given["opener"].split(":")
    loaded: list[Running] = []

    def load() -> None:
        opener = getattr(importlib.import_module(module), function)  # its libraries' import is a part of loading
        loaded[:] = [opener(Path(given["folder"]), given["threads"], given["multilingual"], **given["settings"])]

    def transcribe() -> dict:
        answer = loaded[0].transcribe(clips)
        return {"texts": [text.strip() for text in answer.texts], "tokens": answer.tokens}

    def split() -> dict | None:
        return loaded[0].split(clips) if loaded[0].split else None

    print(f"{given['opener']} in {sys.executable}", file=sys.stderr)
    return {"load": load, "transcribe": transcribe, "split": split}


def in_batches(clips: Clips, batch: int) -> list[Clips]:
    return [clips[first : first + batch] for first in range(0, len(clips), batch)]


def cut_at_quiet(samples: np.ndarray, longest: int) -> list[np.ndarray]:
    """(n,) -> parts of at most `longest` samples, each but the last ending at the quietest moment of its last part."""
    parts = []
    while len(samples) > longest:
        late = longest - longest // (6 * MOMENT) * MOMENT  # where the last sixth begins, or a little later
        loudness = np.square(samples[late:longest]).reshape(-1, MOMENT).sum(axis=1)
        end = late + int(loudness.argmin()) * MOMENT + MOMENT // 2
        parts.append(samples[:end])
        samples = samples[end:]
    return [*parts, samples]
