"""From encoded sound to text: rules, greedy and beam search, language detection, long recordings.

Everything here is NumPy and works on any model with `encode`, `step`, `reorder` and `keep`, whatever its backend.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import LabError
from ..text import Segment, Tokenizer
from .features import HOP, SAMPLE_RATE, WINDOW_FRAMES, window

FRAME_SECONDS = HOP / SAMPLE_RATE  # a log-mel frame
TIMESTAMP_SECONDS = 0.02  # a timestamp token
FRAMES_PER_TIMESTAMP = 2


class LanguageError(LabError):
    """The model does not know this language, or knows English alone."""


@dataclass(frozen=True)
class Rules:
    """What the decoder may say where.

    suppressed: tokens never said (noises, brackets); suppressed_first: nor these at the start (a blank, the end).
    last_start: the highest timestamp that a text may begin with, counted in timestamp tokens (50 is 1 s).
    """

    eot: int
    no_timestamps: int
    no_speech: int
    timestamp_begin: int
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    last_start: int
    timestamps: bool = True

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer, timestamps: bool = True) -> Rules:
        """Reads the lists of suppressed tokens from `generation_config.json`."""
        settings = json.loads((Path(folder) / "generation_config.json").read_text(encoding="utf-8"))
        return cls(
            eot=tokenizer.eot,
            no_timestamps=tokenizer.no_timestamps,
            no_speech=tokenizer.no_speech,
            timestamp_begin=tokenizer.timestamp_begin,
            suppressed=tuple(settings.get("suppress_tokens") or ()),
            suppressed_first=tuple(settings.get("begin_suppress_tokens") or ()),
            last_start=settings.get("max_initial_timestamp_index", 50),
            timestamps=timestamps,
        )


@dataclass
class Text:
    """One window's text: tokens without the end, the mean log-probability of each, and how likely nobody spoke."""

    tokens: list[int]
    logprob: float
    no_speech: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def make_prompt(tokenizer: Tokenizer, language: str | None, task: str = "transcribe", timestamps: bool = True) -> list:
    """The tokens that tell the decoder what to do; English-only models (language None) know no other task."""
    prompt = [tokenizer.sot]
    if language is not None:
        prompt += [tokenizer.languages[language], getattr(tokenizer, task)]
    return prompt if timestamps else [*prompt, tokenizer.no_timestamps]


def forbid_timestamps(row: np.ndarray, text: list[int], rules: Rules) -> None:
    """Writes -inf over what the timestamp rules forbid after `text`: (vocab,) in place.

    Timestamps come in pairs (end of one segment, start of the next), never go back, and a segment is never empty.
    Source: Radford et al. 2022, section 4.5; ApplyTimestampRules in openai-whisper.
    """
    begin = rules.timestamp_begin
    row[rules.no_timestamps] = -np.inf
    if not text:
        row[:begin] = -np.inf
        row[begin + rules.last_start + 1 :] = -np.inf
        return
    last = text[-1] >= begin
    pair = len(text) < 2 or text[-2] >= begin
    if last and pair:
        row[begin:] = -np.inf
    elif last:
        row[: rules.eot] = -np.inf
    said = [token for token in text if token >= begin]
    if said:
        row[begin : said[-1] + (0 if last and not pair else 1)] = -np.inf


def prefer_timestamp(row: np.ndarray, rules: Rules) -> None:
    """If all timestamps together are likelier than any one word, a timestamp it must be: (vocab,) in place."""
    words, stamps = row[: rules.timestamp_begin].max(), row[rules.timestamp_begin :]
    top = stamps.max()
    if np.isfinite(top) and top + np.log(np.exp(stamps - top).sum()) > words:
        row[: rules.timestamp_begin] = -np.inf


def apply_rules(logits: np.ndarray, texts: list[list[int]], rules: Rules) -> np.ndarray:
    """A copy of `logits` (rows, vocab), -inf where a rule forbids the token after the row's text."""
    allowed = logits.copy()
    allowed[:, list(rules.suppressed)] = -np.inf
    for row, text in zip(allowed, texts, strict=True):
        if not text:
            row[list(rules.suppressed_first)] = -np.inf
        if rules.timestamps:
            forbid_timestamps(row, text, rules)
            prefer_timestamp(row, rules)
    return allowed


def prefill(model, audio, prompt: list[int], rules: Rules):
    """Reads the prompt for every window at once.

    Returns:
        the cache, the next token's logits (windows, vocab), and each window's probability that nobody speaks.
    """
    cache = model.new_cache()
    logits = model.step(np.tile(np.array(prompt, np.int64), (len(audio), 1)), audio, cache)
    return cache, logits[:, -1], np.exp(log_softmax(logits[:, 0])[:, rules.no_speech])


def greedy(model, audio, prompt: list[int], rules: Rules, limit: int | None = None) -> list[Text]:
    """Takes the likeliest token at every step; a window whose text has ended leaves the batch.

    Args:
        audio: what `model.encode` gave, one row a window.
        limit: most tokens a window; by default all that the decoder's positions allow.
    """
    cache, logits, no_speech = prefill(model, audio, prompt, rules)
    texts = [Text([], 0.0, float(p)) for p in no_speech]
    open_texts = list(texts)
    for _ in range(limit or model.config.text_positions - len(prompt)):
        allowed = apply_rules(logits, [text.tokens for text in open_texts], rules)
        chosen = allowed.argmax(-1)
        scores = log_softmax(allowed)[np.arange(len(chosen)), chosen]
        for text, token, score in zip(open_texts, chosen, scores, strict=True):
            text.tokens.append(int(token))
            text.logprob += float(score)
        rows = np.flatnonzero(chosen != rules.eot)
        if len(rows) == 0:
            break
        if len(rows) < len(open_texts):
            audio, open_texts = model.keep(rows, audio, cache), [open_texts[row] for row in rows]
        logits = model.step(chosen[rows, None], audio, cache)[:, -1]
    return [finish(text, rules) for text in texts]


def finish(text: Text, rules: Rules) -> Text:
    """Drops the end token, and turns the sum of log-probabilities into their mean."""
    mean = text.logprob / max(1, len(text.tokens))
    return Text([token for token in text.tokens if token != rules.eot], mean, text.no_speech)


class Beams:
    """One window's beams: those still running, and the best that have ended, scored by mean log-probability.

    The rule is transformers': `beams` texts must have ended, and no running one may still overtake the worst of them.
    """

    def __init__(self, count: int, eot: int):
        self.count, self.eot = count, eot
        self.texts: list[list[int]] = [[]]
        self.sums = np.zeros(1, np.float32)
        self.ended: list[tuple[float, list[int]]] = []

    def advance(self, logprobs: np.ndarray, last: bool) -> np.ndarray:
        """Takes a step with (running, vocab) log-probabilities; gives the parent row of each beam that runs on."""
        totals = (self.sums[:, None] + logprobs).ravel()
        best = np.argpartition(-totals, 2 * self.count)[: 2 * self.count]
        best = best[np.argsort(-totals[best], kind="stable")]
        parents, tokens = np.divmod(best, logprobs.shape[1])
        grown = [[*self.texts[parent], int(token)] for parent, token in zip(parents, tokens, strict=True)]
        ends = (tokens == self.eot) | last
        self.ended += [(totals[best[i]] / len(grown[i]), grown[i]) for i in range(self.count) if ends[i]]
        self.ended = sorted(self.ended, key=lambda pair: -pair[0])[: self.count]
        runs = np.flatnonzero(tokens != self.eot)[: self.count]
        self.texts, self.sums = [grown[i] for i in runs], totals[best[runs]]
        return parents[runs]

    @property
    def done(self) -> bool:
        if len(self.ended) < self.count:
            return False
        return bool(self.sums[0] / len(self.texts[0]) <= self.ended[-1][0])


def beam_search(model, audio, prompt: list[int], rules: Rules, beams: int = 5, limit: int | None = None) -> list[Text]:
    """Keeps the `beams` likeliest texts of every window at each step; arguments as for `greedy`."""
    cache, logits, no_speech = prefill(model, audio, prompt, rules)
    windows = [Beams(beams, rules.eot) for _ in no_speech]
    running = list(windows)
    limit = limit or model.config.text_positions - len(prompt)
    for step in range(limit):
        texts = [text for beam in running for text in beam.texts]
        # scored before the rules, as transformers does: a forbidden token leaves the others' scores as they were
        scores = np.where(np.isfinite(apply_rules(logits, texts, rules)), log_softmax(logits), -np.inf)
        starts = np.cumsum([0] + [len(beam.texts) for beam in running])
        parents = [
            start + beam.advance(scores[start : start + len(beam.texts)], step == limit - 1)
            for beam, start in zip(running, starts[:-1], strict=True)
        ]
        going = [i for i, beam in enumerate(running) if not beam.done]
        if not going or step == limit - 1:
            break
        rows = np.concatenate([parents[i] for i in going])
        same_windows = step > 0 and len(going) == len(running)
        if same_windows:
            model.reorder(rows, cache)
        else:
            audio = model.keep(rows, audio, cache)
        running = [running[i] for i in going]
        tokens = np.array([text[-1] for beam in running for text in beam.texts], np.int64)
        logits = model.step(tokens[:, None], audio, cache)[:, -1]
    best = [beam.ended[0] for beam in windows]
    return [
        Text([t for t in tokens if t != rules.eot], float(score), float(p))
        for (score, tokens), p in zip(best, no_speech, strict=True)
    ]


def detect_language(model, audio, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """The likeliest language of each window and its probability among the languages."""
    codes, ids = list(tokenizer.languages), list(tokenizer.languages.values())
    if hasattr(model, "hear_language"):  # a decoder for this alone
        logits = model.hear_language(audio)
    else:
        logits = model.step(np.full((len(audio), 1), tokenizer.sot, np.int64), audio, model.new_cache())[:, -1, ids]
    scores = np.exp(log_softmax(logits))
    return [(codes[row.argmax()], float(row.max())) for row in scores]


def encode_windows(model, mel: np.ndarray) -> Callable:
    """seek -> the encoded window that begins at that frame; the last one is kept, so that the first window is encoded
    once for both its language and its text.
    """
    return functools.lru_cache(maxsize=1)(lambda seek: model.encode(window(mel, seek)[None]))


def choose_language(model, tokenizer: Tokenizer, language: str | None, encoded: Callable) -> str | None:
    """The language for the prompt: None for an English-only model, else the one given, else the one heard.

    Args:
        encoded: see `encode_windows`; the first window is listened to only if it must be.

    Raises:
        LanguageError: the model does not know `language`.
    """
    if not model.config.multilingual:
        if language not in (None, "en"):
            raise LanguageError(f"This model knows English alone, not {language!r}.", hint="Use the model base.")
        return None
    if language is None:
        return detect_language(model, encoded(0), tokenizer)[0][0]
    if language not in tokenizer.languages:
        known = ", ".join(sorted(tokenizer.languages))
        raise LanguageError(f"Whisper does not know the language {language!r}.", hint=f"It knows {known}.")
    return language


Cut = tuple[int, int, list[int]]  # a segment: start and end in timestamp tokens from the window's beginning, tokens


def cut_segments(tokens: list[int], rules: Rules, frames: int) -> tuple[list[Cut], int]:
    """Cuts one window's text where two timestamps meet.

    Args:
        tokens: a window's text with its timestamps.
        frames: log-mel frames of sound in the window.

    Returns:
        the complete segments; and how many frames the next window lies ahead: it begins where the last of them ends,
        for what follows may be cut off.

    Source: Radford et al. 2022, section 3.8 (openai-whisper, transcribe.py).
    """
    stamp = [token - rules.timestamp_begin for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if stamp[i - 1] >= 0 and stamp[i] >= 0]
    if not cuts:
        times = [time for time in stamp if time >= 0]
        end = times[-1] if times and times[-1] > 0 else frames // FRAMES_PER_TIMESTAMP
        return [(0, end, tokens)], frames
    complete = len(tokens) >= 2 and stamp[-1] >= 0 and stamp[-2] < 0  # ends on one timestamp: nothing follows
    ends = [*cuts, len(tokens)] if complete else cuts
    starts = [0, *ends[:-1]]
    segments = [(stamp[a], stamp[b - 1], tokens[a:b]) for a, b in zip(starts, ends, strict=True)]
    return segments, frames if complete else stamp[ends[-1] - 1] * FRAMES_PER_TIMESTAMP


def is_silence(text: Text) -> bool:
    """Probably nobody spoke, and the model does not quite believe its own words either.

    openai-whisper's rule, with -0.5 for its -1.0: the small models answer pure silence with "you", at about -0.7.
    """
    return text.no_speech > 0.6 and text.logprob < -0.5


def search(model, audio, prompt: list[int], rules: Rules, beams: int) -> list[Text]:
    """Greedy for one beam, beam search for more."""
    if beams == 1:
        return greedy(model, audio, prompt, rules)
    return beam_search(model, audio, prompt, rules, beams)


def place_segments(segments: list[Cut], seek: int, tokenizer: Tokenizer, rules: Rules) -> list[Segment]:
    """Turns (start, end, tokens) of the window that begins at frame `seek` into seconds and words."""
    offset = seek * FRAME_SECONDS
    return [
        Segment(
            round(offset + start * TIMESTAMP_SECONDS, 2),
            round(offset + end * TIMESTAMP_SECONDS, 2),
            tokenizer.decode([token for token in tokens if token < rules.timestamp_begin]),
        )
        for start, end, tokens in segments
    ]


def decode_long(model, encoded: Callable, frames: int, prompt, rules, tokenizer, beams=1) -> list[Segment]:
    """Window by window: each begins where the last complete segment of the one before ended.

    Args:
        encoded: see `encode_windows`.
        frames: log-mel frames of the recording that hold sound.
    """
    segments, seek = [], 0
    while seek < frames:
        text = search(model, encoded(seek), prompt, rules, beams)[0]
        here = min(WINDOW_FRAMES, frames - seek)
        cut, ahead = cut_segments(text.tokens, rules, here)
        if not is_silence(text):
            segments += place_segments(cut, seek, tokenizer, rules)
        seek += here if is_silence(text) or ahead == 0 else ahead
    return segments
