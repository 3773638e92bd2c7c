"""What is transcribed in the race, with the text that is said in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labsupport.base.errors import EngineError
from labsupport.engine.race.running import cut_at_quiet
from labsupport.speech import audio, corpus
from labsupport.speech.audio import SAMPLE_RATE

PART = 10 * SAMPLE_RATE  # samples of speech at most between two pauses
PAUSES = (3, 4, 10)  # seconds, in turns
ROOM = 10 ** (-60 / 20)  # of full scale: the noise of a quiet room, which a pause holds
READINGS = 4  # of the narration in ten minutes
TEN_MINUTES = 600 * SAMPLE_RATE
SHORT = 16  # sentences at once


@dataclass(frozen=True, eq=False)
class Sound:
    """Clips, each (n,) float32 at 16 kHz, and the text of each; speech: seconds in which somebody speaks."""

    name: str
    clips: list[np.ndarray]
    texts: list[str]
    speech: float

    @property
    def seconds(self) -> float:
        return sum(map(len, self.clips)) / SAMPLE_RATE

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def one_clip(name: str) -> Sound:
    clip = audio.clip(name)
    samples = audio.read(clip.path)
    return Sound(name, [samples], [clip.text], len(samples) / SAMPLE_RATE)


def with_pauses() -> Sound:
    """Ten minutes: the narration four times over, after every ten seconds of it a pause, the last up to the end."""
    narration, rng = one_clip("narration"), np.random.default_rng(0)
    parts = cut_at_quiet(narration.clips[0], PART) * READINGS
    pauses = [PAUSES[number % len(PAUSES)] * SAMPLE_RATE for number in range(len(parts))]
    pauses[-1] += TEN_MINUTES - sum(pauses) - sum(map(len, parts))
    if pauses[-1] < 0:
        raise EngineError("The narration is too long for ten minutes with pauses.", where=f"{pauses[-1]} samples")
    noise = [(ROOM * rng.standard_normal(count)).astype(np.float32) for count in pauses]
    samples = np.concatenate([each for pair in zip(parts, noise, strict=True) for each in pair])
    return Sound("pauses", [samples], [" ".join(narration.texts * READINGS)], READINGS * narration.speech)


def short_clips() -> Sound:
    """Sentences of the corpus that no model here was trained on, all at once."""
    sentences = corpus.load("held_out")[:SHORT]
    clips = [sentence.samples for sentence in sentences]
    return Sound(f"{SHORT} short", clips, [each.text for each in sentences], sum(map(len, clips)) / SAMPLE_RATE)


SOUNDS: dict[str, Callable[[], Sound]] = {
    "narration": lambda: one_clip("narration"),
    "jfk": lambda: one_clip("jfk"),
    "pauses": with_pauses,
    "short": short_clips,
}


def choose(names: str) -> list[Sound]:
    """The sounds of these names, with commas between; EngineError where there is none of one."""
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in SOUNDS]:
        raise EngineError(f"The race has no clip {unknown[0]!r}.", hint=f"Choose of: {', '.join(SOUNDS)}.")
    return [SOUNDS[name]() for name in chosen]
