"""A small decode step, built once for all tests of this room."""

from __future__ import annotations

import pytest
from small_steps import SMALL, RandomCheckpoint, make_inputs, run_steps

from labsupport.graphs import whisper_graphs


@pytest.fixture(scope="session")
def small():
    """A small step of three beams, its inputs, and what it gives."""
    model = whisper_graphs.decoder_step(RandomCheckpoint(SMALL, 0), 3)
    cross_kv, past = make_inputs(SMALL, 3, 4, 0)
    return model, cross_kv, past, run_steps(model, cross_kv, past, [1, 2])
