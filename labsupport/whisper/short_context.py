"""An encoder that sees less than 30 s: for short clips most of its window is silence, which costs as much as speech.

Whisper was trained on whole windows alone, so that a short one is new to it: it may repeat itself, or end too late.
Some silence after the speech helps. whisper.cpp calls the same `audio_ctx`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.transcribe import Transcriber
from labsupport.whisper.windows import SILENCE, count_frames


class ShortContext:
    """A model of torch or MindSpore that encodes the first `frames` of each window alone; all else is the model's."""

    def __init__(self, model: WhisperModel, frames: int):
        self.model, self.frames = model, frames

    def encode(self, mel: np.ndarray) -> EncoderOut:
        """(windows, mels, 3000) float32 -> (windows, frames / 2, d_model)"""
        return self.model.encode(mel[:, :, : self.frames])

    def __getattr__(self, name: str):
        return getattr(self.model, name)


def with_short_context(transcriber: Transcriber, seconds: float, silence: float = SILENCE) -> Transcriber:
    """The same for clips of at most so many seconds; longer ones lose their end."""
    return replace(transcriber, model=ShortContext(transcriber.model, count_frames(seconds, silence)))
