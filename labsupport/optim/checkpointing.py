"""Gradient checkpointing: forward saves only each group's input, and backward runs each group once more.

It needs less memory, and the time of one more forward pass.

Source: Chen et al. 2016, section 4 (groups of sqrt(n) layers); article C, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from labsupport.arrays import xp


def uncheckpointed(layers: Sequence[Callable]) -> Sequence[Callable]:
    """The layers as they are: all activations are saved for backward."""
    return layers


def checkpointed(layers: Sequence, every: int = 1) -> list[Callable]:
    """Groups of `every` layers (the last may be shorter), each as one function that saves only its input for backward.

    Raises:
        ValueError: `every` is not positive.
    """
    if every < 1:
        raise ValueError(f"A group has one layer or more, not {every}.")
    layers = list(layers)  # a slice of a ModuleList would be one
    return [partial(xp.recompute, layers[first : first + every]) for first in range(0, len(layers), every)]


def predict_saved(layers: int, every: int | None, per_layer: float) -> float:
    """The most that is saved at any time, in units of one layer's input: inputs of groups, and one group's inside.

    Backward goes from the last group to the first: beside a group's inside, the inputs of that group and of those
    before it are alive. So with a shorter last group the most may be alive in the one before.

    Args:
        every: layers in a group; None: no checkpointing, all of every layer is saved.
        per_layer: what one layer saves for backward, in the same units.
    """
    if every is None:
        return layers * per_layer
    firsts = range(0, layers, every)
    return max(groups + min(every, layers - first) * per_layer for groups, first in enumerate(firsts, 1))


def best_group_size(layers: int, per_layer: float) -> int:
    """The group size that saves least: about sqrt(layers / per_layer), so sqrt(n) where a layer saves one unit.

    Of sizes that save the same, one that leaves no shorter group.
    """
    return min(range(1, layers + 1), key=lambda every: (predict_saved(layers, every, per_layer), layers % every != 0))
