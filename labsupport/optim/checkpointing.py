"""Training memory for training time: keep only what enters each group of layers, and compute the rest again.

Backward needs every layer's activations. **Checkpointing** throws them away in forward, all but each group's input,
and computes a group once more when backward comes to it. The time is one more forward pass.

Source: Chen et al. 2016, section 4 (groups of sqrt(n) layers); article C, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from labsupport.arrays import xp


def in_order(layers: Sequence[Callable]) -> Sequence[Callable]:
    """The layers as they are: everything is kept for backward."""
    return layers


def checkpointed(layers: Sequence[Callable], every: int = 1) -> list[Callable]:
    """Groups of `every` layers, each as one function, of which only the input is kept for backward.

    Raises:
        ValueError: `every` is not positive.
    """
    return [partial(xp.recompute, group) for group in split(list(layers), every)]


def split(layers: Sequence, every: int) -> Iterator[Sequence]:
    """Groups of `every` layers; the last may be shorter."""
    if every < 1:
        raise ValueError(f"A group has one layer or more, not {every}.")
    return (layers[first : first + every] for first in range(0, len(layers), every))


def predict_kept(layers: int, every: int | None, inside: float) -> float:
    """The most that is kept at any time, in units of one layer's input: every group's input, and one group's inside.

    Args:
        every: layers in a group; None: no checkpointing, all of every layer is kept.
        inside: what one layer keeps for backward, in the same units.
    """
    if every is None:
        return layers * inside
    return math.ceil(layers / every) + every * inside


def best_group(layers: int, inside: float) -> int:
    """The group that keeps least: about sqrt(layers / inside) layers, so sqrt(n) where a layer keeps one unit."""
    return min(range(1, layers + 1), key=lambda every: predict_kept(layers, every, inside))
