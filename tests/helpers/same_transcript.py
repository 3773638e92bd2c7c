"""Whether two engines gave the same transcript."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labsupport.speech.text import Transcript


def assert_same(ours: Transcript, theirs: Transcript) -> None:
    """Text, times and language are equal; probabilities are sums with each engine's own roundings."""
    for one, other in zip(ours.segments, theirs.segments, strict=True):
        rounded = {name: pytest.approx(getattr(other, name), abs=1e-3) for name in ("avg_logprob", "no_speech_prob")}
        assert one == replace(other, **rounded)
    probability = theirs.language_probability
    close = None if probability is None else pytest.approx(probability, abs=1e-3)
    assert replace(ours, segments=[]) == replace(theirs, segments=[], language_probability=close)
