"""A whole Whisper with random weights, small enough to be searched many times, on the framework of this process."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from labsupport import whisper
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.whisper.token_filters import TokenRules


def draw(rng, *shape) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=2, heads=2, vocab_size=90, audio_positions=40)
RULES = TokenRules(
    eot=50, no_timestamps=60, no_speech=59, timestamp_begin=61, suppressed=(), suppressed_first=(), last_start=10,
    timestamps=False,
)  # fmt: skip
TIMESTAMP_RULES = replace(RULES, timestamps=True)
PROMPT = [55, 56, 60]


def start_cache(model, encoder_out, cache=None):
    """A cache, the model's own unless one is given, that holds the windows of `encoder_out`."""
    cache = model.new_cache() if cache is None else cache
    model.project_cross_kv(encoder_out, cache)
    return cache


def prefill_in_pieces(model, cache, tokens: np.ndarray, lengths: list[int]) -> np.ndarray:
    """(rows, sum of lengths) tokens through `prefill`, so many at a time -> (rows, sum of lengths, vocab) logits"""
    pieces = np.split(tokens, np.cumsum(lengths)[:-1], axis=1)
    return np.concatenate([model.prefill(piece, cache) for piece in pieces], axis=1)


def error_of_last_logits(model, encoder_out, tokens: np.ndarray) -> float:
    """The largest difference of the logits of some last tokens from the same places of all tokens' logits."""
    whole = model.prefill(tokens, start_cache(model, encoder_out))
    errors = []
    for kept in (1, 2, tokens.shape[1]):
        last = model.prefill(tokens, start_cache(model, encoder_out), logits_to_keep=kept)
        assert last.shape == (len(tokens), kept, model.config.vocab_size)
        errors.append(np.abs(last - whole[:, -kept:]).max())
    return max(errors)


class WithCache:
    """A model with another kind of cache: the weights are loaded once."""

    def __init__(self, model, kind):
        self.model, self.new_cache = model, kind

    def __getattr__(self, name):
        return getattr(self.model, name)


@functools.cache
def small_model():
    return whisper.load_model(Checkpoint("small", None, SMALL, random=True))


@functools.cache
def encoder_out(windows: int):
    return small_model().encode(draw(np.random.default_rng(0), windows, SMALL.mels, 2 * SMALL.audio_positions))
