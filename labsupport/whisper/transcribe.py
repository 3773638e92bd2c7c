"""Speech to text, the whole way: samples -> log-mel -> encoder -> search -> segments with times."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.speech import features
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.features import HOP, WINDOW_FRAMES, window
from labsupport.speech.text import Segment, Tokenizer, Transcript
from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.search import Hypothesis, decode, detect_language
from labsupport.whisper.token_filters import TokenRules, make_prompt

FRAME_SECONDS = HOP / SAMPLE_RATE  # a log-mel frame
TIMESTAMP_SECONDS = 0.02  # a timestamp token
FRAMES_PER_TIMESTAMP = 2


@dataclass
class Transcriber:
    """A model with all that turns sound into text; label: the checkpoint's name, as result rows give it."""

    model: WhisperModel
    tokenizer: Tokenizer
    rules: TokenRules
    label: str

    def transcribe(
        self,
        samples: np.ndarray,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = True,
        beams: int = 1,
        batch: int = 1,
    ) -> Transcript:
        """Sound of any length to text.

        Args:
            samples: (n,) float32, mono, 16 kHz.
            language: a code such as "en"; None lets a multilingual model detect it.
            task: "transcribe", or "translate" into English (multilingual models).
            timestamps: let the model write times. Without them every window of 30 s is one segment.
            beams: 1 is greedy.
            batch: 1 goes from window to window along the model's own timestamps. More decodes that many windows of
                30 s at once, and without timestamps: asked for them, the model leaves a window's unfinished last
                sentence out, and no later window would repeat it.

        Raises:
            WhisperError: the model does not know the language.
        """
        mel = self.log_mel(samples)  # (mels, frames), once for the whole clip
        frames = max(1, len(samples) // HOP)  # those that hold sound
        encode = functools.lru_cache(maxsize=1)(lambda seek: self.model.encode(window(mel, seek)[None]))
        language = choose_language(self.model, self.tokenizer, language, lambda: encode(0))
        timestamps = timestamps and batch == 1
        prompt = make_prompt(self.tokenizer, language, task, timestamps)
        search = functools.partial(
            decode, self.model, prompt=prompt, rules=replace(self.rules, timestamps=timestamps), beams=beams
        )
        if timestamps:
            segments = self.transcribe_sequentially(search, encode, frames)
        else:
            segments = self.transcribe_in_batches(search, mel, frames, batch)
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, [replace(s, text=s.text.strip()) for s in segments], language or "en")

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """(n,) -> (mels, frames), what the encoder takes: by the model's own graph, where it has one, else by NumPy."""
        if hasattr(self.model, "log_mel"):
            return self.model.log_mel(samples)
        return features.log_mel(samples, self.model.config.mels)

    def transcribe_sequentially(self, search: Callable, encode: Callable, frames: int) -> list[Segment]:
        """Window by window: each begins where the last complete segment of the one before ended.

        Args:
            search: (windows, 1500, d_model) -> a Hypothesis for each.
            encode: seek -> the encoder's output, (1, 1500, d_model), for the window that begins at this frame.
            frames: log-mel frames of the recording that hold sound.
        """
        segments: list[Segment] = []
        seek = 0
        while seek < frames:
            hypothesis = search(encode(seek))[0]
            here = min(WINDOW_FRAMES, frames - seek)
            cuts, ahead = cut_segments(hypothesis.tokens, self.rules, here)
            if not is_silence(hypothesis):
                segments += place_segments(cuts, seek, self.tokenizer, self.rules)
            seek += here if is_silence(hypothesis) or ahead == 0 else ahead
        return segments

    def transcribe_in_batches(self, search: Callable, mel: np.ndarray, frames: int, batch: int) -> list[Segment]:
        """Windows of 30 s side by side, `batch` at a time; arguments as above."""
        segments: list[Segment] = []
        seeks = range(0, frames, WINDOW_FRAMES)
        for first in range(0, len(seeks), batch):
            group = seeks[first : first + batch]
            mels = np.stack([window(mel, seek) for seek in group])  # (windows, mels, 3000)
            for seek, hypothesis in zip(group, search(self.model.encode(mels)), strict=True):
                cuts, _ = cut_segments(hypothesis.tokens, self.rules, min(WINDOW_FRAMES, frames - seek))
                if not is_silence(hypothesis):
                    segments += place_segments(cuts, seek, self.tokenizer, self.rules)
        return segments


def choose_language(
    model: WhisperModel, tokenizer: Tokenizer, language: str | None, encode: Callable[[], EncoderOut]
) -> str | None:
    """The language for the prompt: None for an English-only model, else the one given, else the one detected.

    Args:
        encode: gives the first window's encoder output; called only if the language must be detected.

    Raises:
        WhisperError: the model does not know `language`.
    """
    if not model.config.multilingual:
        if language not in (None, "en"):
            raise WhisperError(f"This model knows English alone, not {language!r}.", hint="Use the model base.")
        return None
    if language is None:
        return detect_language(model, encode(), tokenizer)[0][0]
    if language not in tokenizer.languages:
        known = ", ".join(sorted(tokenizer.languages))
        raise WhisperError(f"Whisper does not know the language {language!r}.", hint=f"It knows {known}.")
    return language


Cut = tuple[int, int, list[int]]  # a segment: start and end in timestamp tokens from the window's beginning, tokens


def cut_segments(tokens: list[int], rules: TokenRules, frames: int) -> tuple[list[Cut], int]:
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


def is_silence(hypothesis: Hypothesis) -> bool:
    """Probably no speech, and a text of low probability.

    openai-whisper's rule, with -0.5 for its -1.0: the small models answer pure silence with "you", at about -0.7.
    """
    return hypothesis.no_speech_prob > 0.6 and hypothesis.avg_logprob < -0.5


def place_segments(segments: list[Cut], seek: int, tokenizer: Tokenizer, rules: TokenRules) -> list[Segment]:
    """Turns (start, end, tokens) of the window that begins at frame `seek` into seconds and text."""
    offset = seek * FRAME_SECONDS
    return [
        Segment(
            round(offset + start * TIMESTAMP_SECONDS, 2),
            round(offset + end * TIMESTAMP_SECONDS, 2),
            tokenizer.decode([token for token in tokens if token < rules.timestamp_begin]),
        )
        for start, end, tokens in segments
    ]
