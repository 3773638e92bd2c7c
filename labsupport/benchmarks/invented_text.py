"""What Whisper says where nobody speaks: word error rate and invented words, with its guards and without.

    ./lab bench invented_text --model base --parts silence,noise

Whole recordings, speech with silence inserted, speech over noise, and sounds without any speech, each transcribed by
ours as it was and as it is, and by faster-whisper on the same weights. "ours, 5 beams" is what `./lab transcribe` does.
Invented words are the insertions of the alignment that gives the word error rate; where nothing is said, all words.
A row differs by a word or two by chance (0.3 points each), so the mean of a part's rows is given too.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from labsupport import whisper
from labsupport.base.errors import BenchError
from labsupport.base.tables import text_table
from labsupport.benchmarks import noises
from labsupport.checkpoints.resolve import PACKAGED, write_ctranslate2
from labsupport.results.recording import Recording
from labsupport.speech import audio, corpus, features, text
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.segments import Span
from labsupport.whisper import Transcriber
from labsupport.whisper.guards import Guards, compression_ratio
from labsupport.whisper.search import Hypothesis, detect_language, greedy
from labsupport.whisper.token_filters import make_prompt
from labsupport.whisper.windows import cut_segments, place_segments

Transcribe = Callable[[np.ndarray, str | None], list[str]]  # samples, a language or None to detect it -> texts
PARTS = ("recordings", "silence", "noise", "no speech")
FORCED = ("en", "ru", "de", "ja")  # languages in which a multilingual model is asked what is said in no speech
DRAWS = 3  # transcriptions by an entrant with VAD that draws some of its text at random; these are compared
ROOM = -60.0  # dB of full scale: the noise of a quiet room
COMMAND = Guards(condition_on_previous_text=True)  # as `./lab transcribe` has it
PEERS = {"ours": "faster-whisper with VAD, greedy", "ours, 5 beams": "faster-whisper with VAD"}


@dataclass(frozen=True, eq=False)
class Condition:
    """What is transcribed: samples (n,) float32, mono, 16 kHz, and the text that is said in them, which may be empty.

    language: what the model is told; None lets it detect the language.
    """

    name: str
    samples: np.ndarray
    text: str
    language: str | None = None

    @property
    def minutes(self) -> float:
        return len(self.samples) / SAMPLE_RATE / 60


@dataclass(frozen=True)
class Score:
    """Of one or more texts of the same sound.

    invented: words a minute, in each text.
    error_rates: word error rates in percent; none where nothing is said.
    """

    invented: tuple[float, ...]
    error_rates: tuple[float, ...] = ()

    def beats(self, other: Score) -> bool:
        """Whether each of its texts has fewer errors than each of the other's; without speech, fewer words."""
        if self.error_rates:
            return max(self.error_rates) < min(other.error_rates)
        return max(self.invented) < min(other.invented)


def run(model: str, parts: str = ",".join(PARTS)) -> None:
    """Records each entrant's scores under each condition of these parts, and prints them as tables.

    Raises:
        BenchError: there is no such part, or the model is not packaged, so that faster-whisper cannot have it.
    """
    chosen = parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise BenchError(f"There is no part {min(unknown)!r}.", hint=f"Choose some of: {','.join(PARTS)}.")
    if model not in PACKAGED:
        raise BenchError(f"faster-whisper cannot have {model!r}.", hint=f"Choose one of: {', '.join(PACKAGED)}.")
    ours = whisper.load(model, engine="onnx")
    with tempfile.TemporaryDirectory() as folder:
        entrants = {**open_ours(ours), **open_peers(model, Path(folder))}
        for part in chosen:
            compare(part, entrants, make_conditions(part, ours.model.config.multilingual), ours.label)


def compare(
    part: str, entrants: Mapping[str, Transcribe], conditions: Sequence[Condition], label: str
) -> dict[str, dict[str, Score]]:
    """Entrant -> condition -> score; each is a row, and the part a table."""
    scores: dict[str, dict[str, Score]] = {name: {} for name in entrants}
    for condition in conditions:
        recording = Recording("invented_text", label, condition.name)
        for name, transcribe in entrants.items():
            found = score(condition, transcribe(condition.samples, condition.language))
            record(recording, f"invented words: {name}", found.invented, "words a minute")
            if found.error_rates:
                record(recording, f"word error rate: {name}", found.error_rates, "%")
            scores[name][condition.name] = found
    print(f"\n{part}\n{format_scores(scores)}\n{format_defeats(scores)}", flush=True)
    return scores


def record(recording: Recording, what: str, values: Sequence[float], unit: str) -> None:
    """The mean over the texts; their interquartile range is its spread."""
    spread = float(np.subtract(*np.percentile(values, [75, 25])))
    recording.value(what, fmean(values), unit, spread=spread, runs=len(values))


# --- scores -----------------------------------------------------------------------------------------------------------


def score(condition: Condition, texts: Sequence[str]) -> Score:
    if not condition.text:
        return Score(tuple(count_invented(found, condition.language) / condition.minutes for found in texts))
    import jiwer

    said = text.normalise(condition.text)
    aligned = [jiwer.process_words(said, text.normalise(found)) for found in texts]
    return Score(
        tuple(each.insertions / condition.minutes for each in aligned), tuple(100 * each.wer for each in aligned)
    )


def count_invented(found: str, language: str | None) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.normalise(found, language or "en").split())


def format_scores(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """A line for each condition: each entrant's word error rate, where there is one, and invented words a minute."""
    conditions = list(next(iter(scores.values())))
    lines = [["WER in %, invented words a minute", *scores]]
    lines += [[condition, *(format_score(found[condition]) for found in scores.values())] for condition in conditions]
    means = [mean_score(list(found.values())) for found in scores.values()]
    return text_table([*lines, ["mean", *map(format_score, means)]])


def mean_score(scores: Sequence[Score]) -> Score:
    rates = [fmean(each.error_rates) for each in scores if each.error_rates]
    return Score((fmean(fmean(each.invented) for each in scores),), (fmean(rates),) if rates else ())


def format_score(found: Score) -> str:
    rate = f"{fmean(found.error_rates):.1f}, " if found.error_rates else ""
    return f"{rate}{fmean(found.invented):.1f}"


def format_defeats(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Where faster-whisper with voice activity detection beats ours, each with the same search."""
    pairs = [(name, peer, condition) for name, peer in PEERS.items() for condition in scores[peer]]
    defeats = [
        f"{peer} beats {name}: {condition}"
        for name, peer, condition in pairs
        if scores[peer][condition].beats(scores[name][condition])
    ]
    return "\n".join(defeats) or "Ours is nowhere worse than faster-whisper with VAD."


# --- conditions -------------------------------------------------------------------------------------------------------


def make_conditions(part: str, multilingual: bool) -> list[Condition]:
    makers: dict[str, Callable[[], Iterator[Condition]]] = {
        "recordings": make_recordings,
        "silence": make_silences,
        "noise": make_noises,
        "no speech": functools.partial(make_no_speech, FORCED if multilingual else FORCED[:1]),
    }
    return list(makers[part]())


def make_recordings() -> Iterator[Condition]:
    for clip in map(audio.clip, ("jfk", "narration")):
        yield Condition(clip.name, audio.read(clip.path), clip.text)
    sentences = corpus.load("held_out")
    yield Condition("held-out sentences", audio.read(corpus.CORPUS / "held_out.ogg"), join_texts(sentences))


def join_texts(sentences: Sequence[corpus.Sentence]) -> str:
    return " ".join(sentence.text for sentence in sentences)


def join_samples(sentences: Sequence[corpus.Sentence]) -> np.ndarray:
    return np.concatenate([sentence.samples for sentence in sentences])


def make_silences() -> Iterator[Condition]:
    """All held-out sentences, with silence after every six."""
    sentences = corpus.load("held_out")
    for seconds in (10, 30, 60):
        n = seconds * SAMPLE_RATE
        floor = noises.at_level(noises.white(n, np.random.default_rng(seconds)), ROOM)
        for name, silence in (("zeros", np.zeros(n, np.float32)), (f"noise at {ROOM:.0f} dB", floor)):
            groups = [join_samples(sentences[start : start + 6]) for start in range(0, len(sentences), 6)]
            samples = np.concatenate([part for group in groups for part in (group, silence)])
            yield Condition(f"{seconds} s of {name} inserted", samples, join_texts(sentences))


def make_noises() -> Iterator[Condition]:
    sentences = corpus.load("held_out")
    speech, rng = join_samples(sentences), np.random.default_rng(0)
    behind = {
        "white noise": noises.white(len(speech), rng),
        "speech-shaped noise": noises.speech_shaped(len(speech), rng, speech),
        "chords": noises.chords(len(speech), rng),
    }
    for name, noise in behind.items():
        for ratio in (20, 10, 5):
            yield Condition(f"{name} {ratio} dB below", noises.add_noise(speech, noise, ratio), join_texts(sentences))


def make_no_speech(languages: Sequence[str]) -> Iterator[Condition]:
    n, rng = 30 * SAMPLE_RATE, np.random.default_rng(1)
    sounds = {
        "zeros": np.zeros(n, np.float32),
        f"noise at {ROOM:.0f} dB": noises.at_level(noises.white(n, rng), ROOM),
        "hum": noises.at_level(noises.hum(n), -30),
        "chords": noises.at_level(noises.chords(n, rng), -20),
        "breathing": noises.at_level(noises.breathing(n, rng), -35),
        "applause": noises.at_level(noises.applause(n, rng), -20),
    }
    for name, samples in sounds.items():
        for language in languages:
            yield Condition(f"{name}, as {language}", samples, "", language)


# --- entrants ---------------------------------------------------------------------------------------------------------


def open_ours(loaded: Transcriber) -> dict[str, Transcribe]:
    def guarded(samples: np.ndarray, language: str | None, guards: Guards = COMMAND, **options) -> list[str]:
        def transcribe(seed: int) -> tuple[str, bool]:
            found = loaded.transcribe(samples, language, guards=replace(guards, seed=seed), **options)
            return found.text, any(segment.temperature > 0 for segment in found.segments)

        return draw(transcribe, DRAWS if "vad" in options else 1)

    return {
        "ours before": functools.partial(transcribe_plainly, loaded),
        "openai-whisper's rules": functools.partial(guarded, guards=OpenaiGuards(condition_on_previous_text=True)),
        "ours without VAD": guarded,
        "ours": functools.partial(guarded, vad=True),
        "ours, 5 beams": functools.partial(guarded, vad=True, beams=5),
    }


def draw(transcribe: Callable[[int], tuple[str, bool]], draws: int) -> list[str]:
    """So many texts where some of the first is drawn at random; else it alone.

    transcribe: a seed -> the text, and whether some of it was drawn.
    """
    first, drawn = transcribe(0)
    return [first, *(transcribe(seed)[0] for seed in range(1, draws if drawn else 1))]


@dataclass(frozen=True)
class OpenaiGuards(Guards):
    """openai-whisper's rules where ours differ. The rest of ours stays: flat windows are not decoded, loops are cut."""

    def is_silence(self, hypothesis: Hypothesis) -> bool:
        return hypothesis.no_speech_prob > 0.6 and hypothesis.avg_logprob < -1.0

    def repeats(self, text: str) -> bool:
        return compression_ratio(text) > 2.4


def transcribe_plainly(loaded: Transcriber, samples: np.ndarray, language: str | None) -> list[str]:
    """Ours before it had guards (commit 13aa023): each window once, greedily; a text is silence below -0.5."""
    mel = features.LogMel(loaded.model.config.mels)
    mel.feed(samples)
    mel.finish()
    if language is None and loaded.model.config.multilingual:
        language = detect_language(loaded.model, loaded.model.encode(mel.window(0)[None]), loaded.tokenizer)[0][0]
    prompt = make_prompt(loaded.tokenizer, language if loaded.model.config.multilingual else None, "transcribe", True)
    texts, seek = [], 0
    while seek < mel.frames:
        window = Span(seek, min(seek + WINDOW_FRAMES, mel.frames))
        hypothesis = greedy(loaded.model, loaded.model.encode(mel.window(seek)[None]), prompt, loaded.rules)[0]
        cuts, ahead = cut_segments(hypothesis.tokens, loaded.rules, window.end - window.start)
        silent = hypothesis.no_speech_prob > 0.6 and hypothesis.avg_logprob < -0.5
        if not silent:
            placed = place_segments(cuts, window, 0.0, hypothesis, loaded.tokenizer, loaded.rules)
            texts += [segment.text for segment in placed]
        seek = window.end if silent or ahead == 0 else seek + ahead
    return ["".join(texts)]


def open_peers(model: str, folder: Path) -> dict[str, Transcribe]:
    """faster-whisper on the packaged weights, put together in `folder`."""
    import ctranslate2  # type: ignore[import-untyped]
    import faster_whisper

    write_ctranslate2(model, folder)
    ctranslate2.set_random_seed(0)  # once: its generators run on from text to text
    peer = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32")

    def repeat(samples: np.ndarray, language: str | None, **options) -> list[str]:
        def transcribe(seed: int) -> tuple[str, bool]:
            segments = list(peer.transcribe(samples, language=language, **options)[0])
            return "".join(segment.text for segment in segments), any(segment.temperature > 0 for segment in segments)

        return draw(transcribe, DRAWS if "vad_filter" in options else 1)

    return {
        "faster-whisper": repeat,
        "faster-whisper with VAD": functools.partial(repeat, vad_filter=True),
        "faster-whisper with VAD, greedy": functools.partial(repeat, vad_filter=True, beam_size=1),
    }
