"""Bytes that autograd saves, against counts by hand and against the prediction for groups of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labsupport import whisper
from labsupport.arrays.on_torch import apply_layers
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.checkpointing import best_group_size, checkpointed, predict_saved, uncheckpointed
from labsupport.optim.saved_tensors import saved_bytes


class Square(nn.Module):
    """Saves exactly one unit: its input."""

    def forward(self, x):
        return x * x


@pytest.mark.parametrize(("layers", "every"), [(9, 1), (10, 4), (9, 9)])
def test_forward_saves_one_input_a_group(layers, every):
    x = torch.ones(1000, requires_grad=True)
    chain = [Square() for _ in range(layers)]
    groups = -(-layers // every)
    assert saved_bytes(lambda: apply_layers(checkpointed(chain, every), x)) == 4000 * groups
    assert saved_bytes(lambda: apply_layers(uncheckpointed(chain), x)) == 4000 * predict_saved(layers, None, 1)


def test_weights_are_not_counted():
    linear, x = nn.Linear(100, 50), torch.ones(7, 100, requires_grad=True)
    assert saved_bytes(lambda: linear(x), list(linear.parameters())) == 4 * 700
    assert saved_bytes(lambda: linear(x)) == 4 * (700 + 5000)


def test_a_transformers_layer_saves_many_times_its_input():
    """Why groups of one are best for Whisper, and not groups of sqrt(n)."""
    deep = Checkpoint("deep", None, Config(64, 6, 1, 2, 90, audio_positions=40), random=True)
    encoder = whisper.load_model(deep, "cpu").encoder
    x = torch.randn(1, 40, 64, requires_grad=True)
    per_layer = saved_bytes(lambda: encoder.layers[0](x), list(encoder.parameters())) / x.nbytes
    assert 10 < per_layer < 25
    assert best_group_size(6, per_layer) == 1
