"""Caches of keys and values, so that a decode step computes one token and not the whole text again."""

from __future__ import annotations

from typing import Any

from ..arrays import xp

KeysValues = tuple[Any, Any]


class DynamicCache:
    """Grows by one concatenation a step: the simplest cache, and the one to beat.

    Keys and values are (batch, heads, length, head_dim), a pair for each decoder layer. Cross-attention's pair is
    computed once for each window.
    """

    def __init__(self) -> None:
        self.length = 0  # tokens that every layer holds
        self.own: dict[int, KeysValues] = {}
        self.cross: dict[int, KeysValues] = {}

    @staticmethod
    def append(past: KeysValues | None, new: KeysValues) -> KeysValues:
        """A layer's keys and values of the past, and behind them those of this step."""
        if past is None:
            return new
        return xp.concat([past[0], new[0]], axis=2), xp.concat([past[1], new[1]], axis=2)

    def update(self, layer: int, new: KeysValues) -> KeysValues:
        """Appends a step's keys and values to `layer`; gives all that it holds."""
        self.own[layer] = self.append(self.own.get(layer), new)
        return self.own[layer]

    def advance(self, tokens: int) -> None:
        """Says that every layer has now seen `tokens` more."""
        self.length += tokens

    def reorder(self, rows) -> None:
        """Row i goes on from the text of row `rows[i]`. Cross-attention stays: a beam never leaves its window."""
        self.own = select_rows(self.own, rows)

    def keep(self, rows) -> None:
        """Keeps or repeats rows of the batch, cross-attention and all: texts that end, windows that become beams."""
        self.own, self.cross = select_rows(self.own, rows), select_rows(self.cross, rows)


def select_rows(pairs: dict[int, KeysValues], rows) -> dict[int, KeysValues]:
    """The given rows of the batch of every layer's keys and values."""
    return {layer: (xp.take(k, rows), xp.take(v, rows)) for layer, (k, v) in pairs.items()}
