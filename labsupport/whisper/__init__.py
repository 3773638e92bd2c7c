"""Speech to text: the pieces on one line, audio.read -> log_mel -> Encoder -> Decoder(cache) -> decode -> text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import hardware
from ..audio import windows
from ..errors import LabError
from ..text import Segment, Tokenizer, Transcript
from . import decode, features

ENGINES = (*hardware.FRAMEWORKS, "onnx")


class WrongBackend(LabError):
    """This process has begun with the other framework."""


class EngineError(LabError):
    """There is no such engine, or it cannot do what was asked of it."""


@dataclass
class Recogniser:
    """A model with all that turns sound into text.

    model: `torch_model.Whisper`, its MindSpore twin or `onnx_model.Whisper`; label: the checkpoint's name, as result
    rows give it.
    """

    model: Any
    tokenizer: Tokenizer
    rules: decode.Rules
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
            LanguageError: the model does not know the language.
        """
        mel = self.log_mel(samples)
        encoded = decode.encode_windows(self.model, mel)
        language = decode.choose_language(self.model, self.tokenizer, language, encoded)
        timestamps = timestamps and batch == 1
        rules = replace(self.rules, timestamps=timestamps)
        prompt = decode.make_prompt(self.tokenizer, language, task, timestamps)
        if timestamps:
            frames = max(1, len(samples) // features.HOP)
            segments = decode.decode_long(self.model, encoded, frames, prompt, rules, self.tokenizer, beams)
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
            texts = decode.search(self.model, self.model.encode(np.stack(mels)), prompt, rules, beams)
            for part, text in zip(group, texts, strict=True):
                frames = max(1, len(part) // features.HOP)
                if not decode.is_silence(text):
                    cut, _ = decode.cut_segments(text.tokens, rules, frames)
                    segments += decode.place_segments(cut, seek, self.tokenizer, rules)
                seek += frames
        return segments


def load(
    name: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    engine: str | None = None,
    **pieces,
) -> Recogniser:
    """Loads a model ready to transcribe.

    Args:
        name: a packaged model ("tiny.en", "base"), a local folder, or a hub id; by default `checkpoints.DEFAULT`.
        backend: "torch" or "mindspore"; by default what `hardware.backend` chooses.
        device: for example "cuda"; by default the accelerator, where there is one. MindSpore has its own context.
        attn_implementation: an attention mode by its name, as transformers calls the argument; see `optim.attention`.
        engine: "onnx" runs the graphs of `onnx_model` in ONNX Runtime, and loads no framework; else a backend.
        pieces: what to replace, see `torch_model.Pieces`: attention, conv1d, cache; for "onnx" see
            `onnx_model.load_model`: loop, threads.

    Raises:
        CheckpointError: no such model, or it is damaged.
        WrongBackend: this process has begun with the other framework.
        AttentionNotHere: the attention mode needs what is not here.
        EngineError: the engine is unknown, or does not go with another argument.
        OnnxRuntimeMissing: the engine is not installed.
    """
    if choose_engine(engine, backend) == "onnx":
        if device or attn_implementation:
            raise EngineError("The onnx engine runs its own graphs, on the CPU: it takes no device or attention mode.")
        return load_onnx(name, **pieces)
    backend = backend or engine
    from ..arrays import xp

    if (chosen := hardware.backend(backend)) != xp.name:
        raise WrongBackend(f"This process computes with {xp.name}, not {chosen}.", hint="Start a new one (a kernel).")
    from .. import checkpoints  # which itself reads this package's shapes
    from ..optim.attention import get_attention

    if attn_implementation:
        pieces["attention"] = get_attention(attn_implementation)
    checkpoint = checkpoints.resolve(name or checkpoints.DEFAULT)
    return make_recogniser(checkpoint, load_model(checkpoint, device, **pieces), Tokenizer(checkpoint.folder))


def choose_engine(engine: str | None, backend: str | None) -> str | None:
    """The engine asked for, None if none was.

    Raises:
        EngineError: it is unknown, or another one than the backend asked for.
    """
    if engine is not None and engine not in ENGINES:
        raise EngineError(f"There is no engine {engine!r}.", hint=f"Choose one of: {', '.join(ENGINES)}.")
    if engine and backend and engine != backend:
        raise EngineError(f"The engine {engine!r} and the backend {backend!r} exclude each other.", hint="Give one.")
    return engine


def load_onnx(name: str | None, **options) -> Recogniser:
    """As `load`, on ONNX Runtime; options as for `onnx_model.load_model`."""
    from .. import checkpoints
    from . import onnx_model

    onnx_model.require_runtime()
    checkpoint = checkpoints.resolve(name or checkpoints.DEFAULT)
    tokenizer = Tokenizer(checkpoint.folder)
    return make_recogniser(checkpoint, onnx_model.load_model(checkpoint, tokenizer, **options), tokenizer)


def make_recogniser(checkpoint, model, tokenizer: Tokenizer) -> Recogniser:
    return Recogniser(model, tokenizer, decode.Rules.from_folder(checkpoint.folder, tokenizer), checkpoint.label)


def load_model(checkpoint, device: str | None = None, **pieces):
    """The readable Whisper of this process's backend, with a checkpoint's weights; arguments as for `load`."""
    if hardware.backend() == "mindspore":
        from . import mindspore_model

        return mindspore_model.load_model(checkpoint, mindspore_model.Pieces(**pieces))
    import torch

    from . import torch_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch_model.load_model(checkpoint, torch_model.Pieces(**pieces), device)
