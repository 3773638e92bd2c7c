"""Activations computed again give the same gradients, on the framework of this process."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from small_model import draw

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.checkpointing import checkpointed, in_order

pytestmark = pytest.mark.both_backends

DEEP = Checkpoint("deep", None, Config(32, 3, 1, 2, 90, audio_positions=40), random=True)
MEL = draw(np.random.default_rng(0), 2, 80, 80)


def gradients(run) -> dict[str, np.ndarray]:
    encoder = whisper.load_model(DEEP, run=run).encoder
    return xp.gradients(lambda: (encoder(xp.asarray(MEL)) ** 2).mean(), encoder)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_gradients_are_those_of_keeping_everything(every):
    expected, found = gradients(in_order), gradients(partial(checkpointed, every=every))
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 + 1 + 3 * 15 + 2  # convolutions, positions, layers, the last norm
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) <= 1e-6 * np.linalg.norm(gradient) + 1e-12, name
