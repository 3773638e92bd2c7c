"""Eight-bit weights and inputs for the engine's graphs, in NumPy: `optim.quantization` is torch's.

Source: article C, section 3.2; Xiao et al. 2022 (SmoothQuant) for what `smoothing` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HIGHEST = 127  # codes are from -127 to 127: symmetric, so that zero is exact and no offset is needed
Range = tuple[float, float]  # of inputs, symmetric about zero: code -128 stands for the first, 127 for the second


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """Codes (out, in) int8 and a scale for each output channel, (out, 1) float32: their product is the weight."""

    codes: np.ndarray
    scales: np.ndarray


def quantize(weight: np.ndarray) -> Int8Weight:
    """(out, in) float32, rounded to the nearest code; a row of zeros stays one."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / HIGHEST
    scales[scales == 0] = 1
    return Int8Weight(np.round(weight / scales).astype(np.int8), scales.astype(np.float32))


def symmetric_range(largest: float) -> Range:
    """The limits of 256 levels about zero, of which the last but one on each side is `largest`."""
    return -largest * (HIGHEST + 1) / HIGHEST, largest


def smoothing(inputs: np.ndarray, weight: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """(in,) by what to divide each input channel, and multiply the weight's column, so that both round well.

    A few channels of a transformer's activations are many times as large as the others. One scale for all would round
    those others to a handful of codes; divided here, and multiplied back in the weight, all are of like size.

    Args:
        inputs: (in,) the largest absolute value of each input channel, from calibration.
        weight: (out, in).
        strength: 0 changes nothing, 1 moves all of the difference into the weight.
    """
    columns = np.abs(weight).max(axis=0)
    factors = np.maximum(inputs, 1e-5) ** strength / np.maximum(columns, 1e-5) ** (1 - strength)
    return (factors / np.exp(np.log(factors).mean())).astype(np.float32)
