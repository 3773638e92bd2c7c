"""Less training memory for more training time: save only the input of each group of layers, and compute the rest again.

Backward needs every layer's activations. **Checkpointing** drops them in forward, all but each group's input, and runs
a group once more when backward comes to it. The time is one more forward pass.

Source: Chen et al. 2016, section 4 (groups of sqrt(n) layers); article C, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from labsupport.arrays import xp


def uncheckpointed(layers: Sequence[Callable]) -> Sequence[Callable]:
    """The layers as they are: all activations are saved for backward."""
    return layers


def checkpointed(layers: Sequence[Callable], every: int = 1) -> list[Callable]:
    """Groups of `every` layers, each as one function, of which only the input is saved for backward.

    Raises:
        ValueError: `every` is not positive.
    """
    return [partial(xp.recompute, group) for group in split_layers(list(layers), every)]


def split_layers(layers: Sequence, every: int) -> Iterator[Sequence]:
    """Groups of `every` layers; the last may be shorter."""
    if every < 1:
        raise ValueError(f"A group has one layer or more, not {every}.")
    return (layers[first : first + every] for first in range(0, len(layers), every))


def predict_saved(layers: int, every: int | None, per_layer: float) -> float:
    """The most that is saved at any time, in units of one layer's input: each group's input, and one group's layers.

    Args:
        every: layers in a group; None: no checkpointing, all of every layer is saved.
        per_layer: what one layer saves for backward, in the same units.
    """
    if every is None:
        return layers * per_layer
    return math.ceil(layers / every) + every * per_layer


def best_group_size(layers: int, per_layer: float) -> int:
    """The group size that saves least: about sqrt(layers / per_layer), so sqrt(n) where a layer saves one unit."""
    return min(range(1, layers + 1), key=lambda every: predict_saved(layers, every, per_layer))
