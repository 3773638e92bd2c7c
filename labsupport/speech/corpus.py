"""The corpus in data/corpus: spoken sentences about this field, for fine-tuning and for its evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labsupport.base import paths
from labsupport.base.errors import AudioError
from labsupport.speech import audio

CORPUS = paths.DATA / "corpus"
SPLITS = ("train", "held_out")


@dataclass(frozen=True, eq=False)
class Sentence:
    """`text` is exactly what is said in `samples`, float32 (samples,), mono, 16 kHz; `voice` is flite's name."""

    samples: np.ndarray
    text: str
    voice: str


def load(split: str) -> list[Sentence]:
    """The sentences of `split`, "train" or "held_out", in the card's order; AudioError if card and recording differ."""
    if split not in SPLITS:
        raise AudioError(f"The corpus has no split {split!r}.", where=CORPUS, hint=f"Known: {', '.join(SPLITS)}.")
    card = paths.read_toml(CORPUS / "corpus.toml")
    samples = audio.read(CORPUS / card[split]["file"])
    return [_cut(samples, entry) for entry in card["sentences"] if entry["split"] == split]


def _cut(samples: np.ndarray, entry: dict) -> Sentence:
    """A sentence of its split's samples; its own are a view of them."""
    start, end, seconds = entry["start"], entry["end"], len(samples) / audio.SAMPLE_RATE
    if not 0 <= start < end <= seconds:
        what = f"The card puts {entry['text']!r} at {start} to {end} s of a recording of {seconds:.3f} s."
        hint = "Take the card and the recordings from one commit, or make them again: data/corpus/make_corpus.py"
        raise AudioError(what, where=CORPUS / "corpus.toml", hint=hint)
    part = samples[round(start * audio.SAMPLE_RATE) : round(end * audio.SAMPLE_RATE)]
    return Sentence(part, entry["text"], entry["voice"])
