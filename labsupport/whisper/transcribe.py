"""Speech to text: the pieces on one line, audio.read -> log_mel -> Encoder -> Decoder(cache) -> decode -> text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labsupport.base.errors import MachineError, WhisperError
from labsupport.machine.backend import FRAMEWORKS, choose_backend
from labsupport.speech import features
from labsupport.speech.audio import SAMPLE_RATE, windows
from labsupport.speech.features import HOP, WINDOW_FRAMES, window
from labsupport.speech.text import Segment, Tokenizer, Transcript
from labsupport.whisper.search import Hypothesis, decode, detect_language
from labsupport.whisper.token_filters import TokenRules, make_prompt

ENGINES = (*FRAMEWORKS, "onnx")
FRAME_SECONDS = HOP / SAMPLE_RATE  # a log-mel frame
TIMESTAMP_SECONDS = 0.02  # a timestamp token
FRAMES_PER_TIMESTAMP = 2


@dataclass
class Transcriber:
    """A model with all that turns sound into text.

    model: `torch_model.Whisper`, its MindSpore twin or `onnx_model.Whisper`; label: the checkpoint's name, as result
    rows give it.
    """

    model: Any
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
            language: a code such as "en"; None lets a multilingual model listen for it.
            task: "transcribe", or "translate" into English (multilingual models).
            timestamps: let the model write times. Without them every window of 30 s is one segment.
            beams: 1 is greedy.
            batch: 1 goes from window to window along the model's own timestamps. More decodes that many windows of
                30 s at once, and without timestamps: asked for them, the model leaves a window's unfinished last
                sentence out, and nobody reads it again.

        Raises:
            WhisperError: the model does not know the language.
        """
        mel = self.log_mel(samples)
        encoded = encode_windows(self.model, mel)
        language = choose_language(self.model, self.tokenizer, language, encoded)
        timestamps = timestamps and batch == 1
        rules = replace(self.rules, timestamps=timestamps)
        prompt = make_prompt(self.tokenizer, language, task, timestamps)
        if timestamps:
            frames = max(1, len(samples) // features.HOP)
            segments = decode_long(self.model, encoded, frames, prompt, rules, self.tokenizer, beams)
        else:
            segments = self._decode_batches(samples, prompt, rules, beams, batch)
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, [replace(s, text=s.text.strip()) for s in segments], language or "en")

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """What the encoder reads, (mels, frames): by the model's own graph, where it has one, else by NumPy."""
        if hasattr(self.model, "log_mel"):
            return self.model.log_mel(samples)
        return features.log_mel(samples, self.model.config.mels)

    def _decode_batches(self, samples, prompt, rules, beams: int, batch: int) -> list[Segment]:
        """Windows of 30 s, `batch` at a time."""
        parts, segments, seek = windows(samples), [], 0
        for first in range(0, len(parts), batch):
            group = parts[first : first + batch]
            mels = [self.log_mel(part) for part in group]
            texts = decode(self.model, self.model.encode(np.stack(mels)), prompt, rules, beams)
            for part, text in zip(group, texts, strict=True):
                frames = max(1, len(part) // features.HOP)
                if not is_silence(text):
                    cut, _ = cut_segments(text.tokens, rules, frames)
                    segments += place_segments(cut, seek, self.tokenizer, rules)
                seek += frames
        return segments


def load(
    name: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    engine: str | None = None,
    **pieces,
) -> Transcriber:
    """Loads a model ready to transcribe.

    Args:
        name: a packaged model ("tiny.en", "base"), a local folder, or a hub id; by default `DEFAULT_MODEL`.
        backend: "torch" or "mindspore"; by default what `choose_backend` chooses.
        device: for example "cuda"; by default the accelerator, where there is one. MindSpore has its own context.
        attn_implementation: an attention mode by its name, as transformers calls the argument; see `optim.attention`.
        engine: "onnx" runs the graphs of `onnx_model` in ONNX Runtime, and loads no framework; else a backend.
        pieces: what to replace, see `torch_model.Pieces`: attention, conv1d, cache; for "onnx" see
            `onnx_model.load_model`: loop, threads.

    Raises:
        CheckpointError: no such model, or it is damaged.
        MachineError: this process has begun with the other framework.
        NotAvailable: the attention mode needs what is not here.
        WhisperError: the engine is unknown, or does not go with another argument.
        NotAvailable: the engine is not installed.
    """
    if choose_engine(engine, backend) == "onnx":
        if device or attn_implementation:
            raise WhisperError("The onnx engine runs its own graphs, on the CPU: it takes no device or attention mode.")
        return load_onnx(name, **pieces)
    backend = backend or engine
    from labsupport.arrays import xp

    if (chosen := choose_backend(backend)) != xp.name:
        raise MachineError(f"This process computes with {xp.name}, not {chosen}.", hint="Start a new one (a kernel).")
    from labsupport.checkpoints.resolve import (
        DEFAULT_MODEL,
        find_checkpoint,  # which itself reads this package's shapes
    )
    from labsupport.optim.attention import get_attention

    if attn_implementation:
        pieces["attention"] = get_attention(attn_implementation)
    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    return make_transcriber(checkpoint, load_model(checkpoint, device, **pieces), Tokenizer(checkpoint.folder))


def choose_engine(engine: str | None, backend: str | None) -> str | None:
    """The engine asked for, None if none was.

    Raises:
        WhisperError: it is unknown, or another one than the backend asked for.
    """
    if engine is not None and engine not in ENGINES:
        raise WhisperError(f"There is no engine {engine!r}.", hint=f"Choose one of: {', '.join(ENGINES)}.")
    if engine and backend and engine != backend:
        raise WhisperError(f"The engine {engine!r} and the backend {backend!r} exclude each other.", hint="Give one.")
    return engine


def load_onnx(name: str | None, **options) -> Transcriber:
    """As `load`, on ONNX Runtime; options as for `onnx_model.load_model`."""
    from labsupport.checkpoints.resolve import DEFAULT_MODEL, find_checkpoint
    from labsupport.graphs import session
    from labsupport.whisper import onnx_model

    session.require_runtime()
    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    tokenizer = Tokenizer(checkpoint.folder)
    return make_transcriber(checkpoint, onnx_model.load_model(checkpoint, tokenizer, **options), tokenizer)


def make_transcriber(checkpoint, model, tokenizer: Tokenizer) -> Transcriber:
    return Transcriber(model, tokenizer, TokenRules.from_folder(checkpoint.folder, tokenizer), checkpoint.label)


def load_model(checkpoint, device: str | None = None, **pieces):
    """The readable Whisper of this process's backend, with a checkpoint's weights; arguments as for `load`."""
    if choose_backend() == "mindspore":
        from labsupport.whisper import mindspore_model

        return mindspore_model.load_model(checkpoint, mindspore_model.Pieces(**pieces))
    import torch

    from labsupport.whisper import torch_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch_model.load_model(checkpoint, torch_model.Pieces(**pieces), device)


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
        WhisperError: the model does not know `language`.
    """
    if not model.config.multilingual:
        if language not in (None, "en"):
            raise WhisperError(f"This model knows English alone, not {language!r}.", hint="Use the model base.")
        return None
    if language is None:
        return detect_language(model, encoded(0), tokenizer)[0][0]
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


def is_silence(text: Hypothesis) -> bool:
    """Probably nobody spoke, and the model does not quite believe its own words either.

    openai-whisper's rule, with -0.5 for its -1.0: the small models answer pure silence with "you", at about -0.7.
    """
    return text.no_speech > 0.6 and text.logprob < -0.5


def place_segments(segments: list[Cut], seek: int, tokenizer: Tokenizer, rules: TokenRules) -> list[Segment]:
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
        text = decode(model, encoded(seek), prompt, rules, beams)[0]
        here = min(WINDOW_FRAMES, frames - seek)
        cut, ahead = cut_segments(text.tokens, rules, here)
        if not is_silence(text):
            segments += place_segments(cut, seek, tokenizer, rules)
        seek += here if is_silence(text) or ahead == 0 else ahead
    return segments
