"""Three ways through a long recording: windows that overlap, Whisper's own seek, and speech in batches.

    ./lab bench long_audio --model tiny.en --runs 3

Each way transcribes the same sounds (the clip; sentences between long pauses; the clip over noise; silence and noise
in which nobody speaks), one way after the other in each run. Errors and invented words are counted as in
`invented_text`; a batch sweep follows for the ways that have batches. No way has a prompt or beams,
and none draws a text that fails its guards anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from labsupport import whisper
from labsupport.benchmarks import noises
from labsupport.benchmarks.invented_text import ROOM, Condition, Score, join_texts, score
from labsupport.results.memory import peak_memory
from labsupport.results.recording import Recording
from labsupport.results.timing import compare
from labsupport.speech import audio, corpus
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.whisper import Transcriber
from labsupport.whisper.guards import Guards
from labsupport.whisper.overlap import transcribe_overlapping

Way = Callable[[Transcriber, np.ndarray], str]
GREEDY = Guards(temperatures=(0.0,))  # in noise, drawing a text that fails anew takes minutes
BATCH = 4
BATCHES = (1, 2, 4, 8)
PAUSES = (3, 8, 20)  # seconds, in turns


def by_overlap(transcriber: Transcriber, samples: np.ndarray, batch: int = BATCH) -> str:
    return transcribe_overlapping(transcriber, samples, "en", batch)


def by_seek(transcriber: Transcriber, samples: np.ndarray) -> str:
    return transcriber.transcribe(samples, "en", guards=GREEDY).text


def by_speech(transcriber: Transcriber, samples: np.ndarray, batch: int = BATCH) -> str:
    return transcriber.transcribe(samples, "en", batch=batch, vad=True, guards=GREEDY).text


WAYS: dict[str, Way] = {"overlap": by_overlap, "seek": by_seek, "speech": by_speech}
IN_BATCHES = {"overlap": by_overlap, "speech": by_speech}


def make_sounds(clip: str, sentences: int = 12, quiet: float = 60) -> Iterator[Condition]:
    """What is transcribed, each with the text that is said in it.

    Args:
        sentences: of the corpus' held-out ones, between whose pauses is the noise of a quiet room.
        quiet: seconds of the sounds in which nobody speaks.
    """
    known, samples = audio.clip(clip), audio.read(audio.clip(clip).path)
    rng = np.random.default_rng(0)
    yield Condition(known.name, samples, known.text, "en")
    chosen = corpus.load("held_out")[:sentences]
    pauses = [room_noise(PAUSES[i % len(PAUSES)], rng) for i in range(len(chosen))]
    parts = [part for sentence, pause in zip(chosen, pauses, strict=True) for part in (sentence.samples, pause)]
    yield Condition("pauses", np.concatenate(parts), join_texts(chosen), "en")
    behind = noises.speech_shaped(len(samples), rng, samples)
    yield Condition("noise 10 dB below", noises.add_noise(samples, behind, 10), known.text, "en")
    count = round(quiet * SAMPLE_RATE)
    yield Condition("silence", np.zeros(count, np.float32), "", "en")
    yield Condition("noise alone", noises.at_level(noises.speech_shaped(count, rng, samples), -30), "", "en")


def room_noise(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return noises.at_level(noises.white(round(seconds * SAMPLE_RATE), rng), ROOM)


def score_ways(transcriber: Transcriber, sound: Condition) -> dict[str, Score]:
    return {name: score(sound, [way(transcriber, sound.samples)]) for name, way in WAYS.items()}


def run(model: str, runs: int, clip: str) -> None:
    """Records word error rates, invented words, times and peaks of each way on each sound; then the batch sweep."""
    transcriber = whisper.load(model)
    for sound in make_sounds(clip):
        recording = Recording("long_audio", transcriber.label, sound.name)
        work = {name: functools.partial(way, transcriber, sound.samples) for name, way in WAYS.items()}
        for name, found in score_ways(transcriber, sound).items():
            record_score(recording, name, found)
            recording.value(f"peak above the model: {name}", peak_memory(work[name])[1] / 1e6, "MB")
        recording.comparison("a whole transcription", compare(work, runs=runs))
    sound = next(make_sounds(clip))
    for name, way in IN_BATCHES.items():
        sweep = {f"batch {n}": functools.partial(way, transcriber, sound.samples, n) for n in BATCHES}
        Recording("long_audio", transcriber.label, clip).comparison(f"{name} in batches", compare(sweep, runs=runs))


def record_score(recording: Recording, name: str, found: Score) -> None:
    recording.value(f"invented words: {name}", found.invented[0], "words a minute")
    if found.error_rates:
        recording.value(f"word error rate: {name}", found.error_rates[0], "%")
