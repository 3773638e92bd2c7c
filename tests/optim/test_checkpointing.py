"""Activations computed again give the gradients of saving them all, on the framework of this process; group sizes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_model import draw

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.checkpointing import best_group_size, checkpointed, predict_saved, uncheckpointed

pytestmark = pytest.mark.both_backends

DEEP = Checkpoint("deep", None, Config(32, 3, 1, 2, 90, audio_positions=40), random=True)
MEL = draw(np.random.default_rng(0), 2, 80, 80)


def gradients(run) -> dict[str, np.ndarray]:
    encoder = whisper.load_model(DEEP, run=run).encoder
    return xp.gradients(lambda: (encoder(xp.asarray(MEL)) ** 2).mean(), encoder)


def test_gradients_are_those_of_saving_everything():
    expected, found = gradients(uncheckpointed), gradients(partial(checkpointed, every=2))  # groups of two and of one
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 + 1 + 3 * 15 + 2  # convolutions, positions, layers, the last norm
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) <= 1e-6 * np.linalg.norm(gradient) + 1e-12, name


@given(st.lists(st.integers(), max_size=40), st.integers(1, 45))
def test_groups_are_the_layers_in_order(layers, every):
    groups = [run.args[0] for run in checkpointed(layers, every)]
    assert [layer for group in groups for layer in group] == layers
    assert all(len(group) == every for group in groups[:-1])


def test_groups_have_a_layer_or_more():
    with pytest.raises(ValueError, match="not 0"):
        checkpointed([abs], every=0)


@given(st.integers(1, 60), st.floats(1, 40))
def test_no_group_size_saves_less_than_the_best(layers, per_layer):
    least = predict_saved(layers, best_group_size(layers, per_layer), per_layer)
    assert all(least <= predict_saved(layers, every, per_layer) for every in range(1, layers + 1))
    assert least <= 1 + layers + per_layer


def test_the_best_group_size_is_the_root_where_a_layer_saves_one_unit():
    assert best_group_size(36, per_layer=1) == 6


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 40))
def test_the_prediction_is_the_most_that_is_alive_when_backward_is_acted_out(layers, every, per_layer):
    sizes = [min(every, layers - first) for first in range(0, layers, every)]
    alive = [len(sizes[: group + 1]) + sizes[group] * per_layer for group in reversed(range(len(sizes)))]
    assert predict_saved(layers, every, per_layer) == max(alive)


def test_a_shorter_last_group_is_gone_when_the_one_before_it_is_inside():
    assert predict_saved(10, 4, 1) == 6
