"""Many channels -> one, and any rate -> 16 kHz, block by block.

An average loses what two channels hold with opposite signs (a microphone cable with swapped poles, a "karaoke" or
surround effect), and makes one speaker among silent channels quiet. Here each channel is added with the sign that it
has against the others, and the sum is divided by the number of channels that hold any sound.
"""

from __future__ import annotations

import math

import numpy as np

SAMPLE_RATE = 16_000  # Hz, the rate that every Whisper was trained on
STRETCH_SECONDS = 0.1  # for which the signs are judged
RAMP_SECONDS = 0.01  # from the signs of one stretch to those of the next
CLEAR_CORRELATION = 0.4  # above it the sign is sure; two speakers are below, and the sign stays what it was
SILENT = 1e-4  # of the loudest channel's energy: -40 dB


class Mixer:
    """Mixes blocks of (frames, channels) float32 to (frames,); what it learns of the channels holds on."""

    def __init__(self, channels: int, rate: int):
        self.stretch, self.ramp = max(1, round(rate * STRETCH_SECONDS)), max(1, round(rate * RAMP_SECONDS))
        self.energies = np.zeros(channels)
        self.signs = np.zeros(channels)  # of the last stretch; 0 before the first
        self.weights: np.ndarray | None = None  # of the last stretch

    def mix(self, frames: np.ndarray) -> np.ndarray:
        """Gives the block's mono samples (frames,) float32."""
        if frames.shape[1] == 1:
            return frames[:, 0]
        pieces = np.array_split(frames, range(self.stretch, len(frames), self.stretch))
        products = np.stack([each.T.astype(np.float64) @ each for each in pieces])  # (stretches, channels, channels)
        self.energies += products.sum(0).diagonal()
        active = max(1, np.count_nonzero(self.energies > SILENT * self.energies.max()))
        weights = self._align(products) / active  # (stretches, channels)
        mixed = [self._mix_piece(piece, each) for piece, each in zip(pieces, weights, strict=True)]
        return np.concatenate(mixed)

    def _mix_piece(self, piece: np.ndarray, weights: np.ndarray) -> np.ndarray:
        weights = weights.astype(np.float32)
        mixed = piece @ weights
        if self.weights is not None and not np.array_equal(weights, self.weights):
            count = min(self.ramp, len(piece))
            share = np.linspace(0, 1, count, dtype=np.float32)
            mixed[:count] = share * mixed[:count] + (1 - share) * (piece[:count] @ self.weights)
        self.weights = weights
        return mixed

    def _align(self, products: np.ndarray) -> np.ndarray:
        """The sign (stretches, channels) of each channel against the sum of those before it."""
        signs = np.ones(products.shape[:2])
        for channel in range(1, products.shape[1]):
            before = signs[:, :channel]
            shared = (before * products[:, :channel, channel]).sum(1)
            power = np.einsum("si,sij,sj->s", before, products[:, :channel, :channel], before)
            power *= products[:, channel, channel]
            clear = np.abs(shared) > CLEAR_CORRELATION * np.sqrt(power.clip(0))
            signs[:, channel] = _hold(np.where(clear, np.sign(shared), 0), self.signs[channel])
        self.signs = signs[-1]
        return signs


def _hold(signs: np.ndarray, first: float) -> np.ndarray:
    """`signs` (stretches,) with each 0 replaced by the sign before it; at the start by the first there is, or 1."""
    start = first or next(iter(signs[signs != 0]), 1.0)
    signs = np.concatenate([[start], signs])
    last = np.maximum.accumulate(np.where(signs != 0, np.arange(len(signs)), 0))
    return signs[last][1:]


class Resampler:
    """Converts mono float32 blocks to 16 kHz with soxr's high quality, as if they were one block."""

    def __init__(self, rate: int):
        self.rate, self.count = rate, 0
        if rate != SAMPLE_RATE:
            import soxr

            self.stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def feed(self, samples: np.ndarray) -> np.ndarray:
        self.count += len(samples)
        return samples if self.rate == SAMPLE_RATE else self.stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """The last samples; sound that is shorter than one sample at 16 kHz is padded to one."""
        if self.rate == SAMPLE_RATE:
            return np.zeros(0, np.float32)
        shortest = math.ceil(self.rate / SAMPLE_RATE)
        return self.stream.resample_chunk(np.zeros(max(0, shortest - self.count), np.float32), last=True)
