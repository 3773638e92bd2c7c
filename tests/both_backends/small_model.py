"""A whole Whisper with random weights, small enough to be searched many times, on the framework of this process."""

from __future__ import annotations

import functools

import numpy as np

from labsupport import checkpoints, whisper
from labsupport.whisper import decode
from labsupport.whisper.config import Config


def draw(rng, *shape) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=2, heads=2, vocab_size=90, audio_positions=40)
RULES = decode.Rules(
    eot=50, no_timestamps=60, no_speech=59, timestamp_begin=61, suppressed=(), suppressed_first=(), last_start=10,
    timestamps=False,
)  # fmt: skip
PROMPT = [55, 56, 60]


@functools.cache
def small_model():
    return whisper.load_model(checkpoints.Checkpoint("small", None, SMALL, random=True))


@functools.cache
def sound(windows: int):
    return small_model().encode(draw(np.random.default_rng(0), windows, SMALL.mels, 2 * SMALL.audio_positions))
