"""Activations computed again: gradients against plain backward and torch's own checkpointing; memory against counts."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from labsupport import whisper
from labsupport.arrays.on_torch import go_through
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim import checkpointing
from labsupport.optim.checkpointing import best_group, checkpointed, in_order, predict_kept
from labsupport.optim.saved_tensors import kept_bytes

DEEP = Checkpoint("deep", None, Config(64, 6, 1, 2, 90, audio_positions=40), random=True)
MEL = torch.randn(2, 80, 80, generator=torch.Generator().manual_seed(0))


def gradients(run, frozen: str | None = None, half: bool = False) -> dict[str, torch.Tensor]:
    encoder = whisper.load_model(DEEP, "cpu", run=run).encoder
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(frozen is None or not name.startswith(frozen))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = encoder(MEL).square().mean()
    loss.backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def torchs_own(layers):
    return [functools.partial(checkpoint, layer, use_reentrant=False) for layer in layers]


@pytest.mark.parametrize("every", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("frozen", [None, "conv", "layers.2"])
def test_gradients_are_those_of_plain_backward_and_of_torchs_checkpointing(every, frozen):
    found = gradients(functools.partial(checkpointed, every=every), frozen)
    for other in (in_order, torchs_own):
        expected = gradients(other, frozen)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name


def test_mixed_precision_is_the_same_when_computed_again():
    plain, found, other = (gradients(run, half=True) for run in (in_order, checkpointed, torchs_own))
    full = gradients(in_order)
    for name, gradient in plain.items():
        assert torch.equal(found[name], other[name]), name
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name
    assert any((full[name] - plain[name]).norm() > 1e-3 * plain[name].norm() for name in plain), "bfloat16 was used"


def test_a_planted_fault_is_seen():
    def skip_one(layers):
        return checkpointed(list(layers)[:-1])

    expected, found = gradients(in_order), gradients(skip_one)
    assert found.keys() != expected.keys()


def test_without_gradients_it_is_the_same_encoder():
    plain, ours = (whisper.load_model(DEEP, "cpu", run=run) for run in (in_order, checkpointed))
    assert (plain.encode(MEL.numpy()) - ours.encode(MEL.numpy())).abs().max() == 0


def test_groups_have_a_layer_or_more():
    with pytest.raises(ValueError, match="not 0"):
        checkpointed([nn.Identity()], every=0)


# --- memory -----------------------------------------------------------------------------------------------------------


class Square(nn.Module):
    """Keeps exactly one unit: its input."""

    def forward(self, x):
        return x * x


@pytest.mark.parametrize(("layers", "every"), [(9, 1), (9, 3), (10, 4), (9, 9)])
def test_forward_keeps_one_input_a_group(layers, every):
    x = torch.ones(1000, requires_grad=True)
    chain = [Square() for _ in range(layers)]
    groups = -(-layers // every)
    assert kept_bytes(lambda: go_through(checkpointed(chain, every), x)) == 4000 * groups
    assert kept_bytes(lambda: go_through(in_order(chain), x)) == 4000 * predict_kept(layers, None, 1)


def test_weights_are_not_counted():
    linear, x = nn.Linear(100, 50), torch.ones(7, 100, requires_grad=True)
    assert kept_bytes(lambda: linear(x), list(linear.parameters())) == 4 * 700
    assert kept_bytes(lambda: linear(x)) == 4 * (700 + 5000)


def test_a_transformers_layer_keeps_many_times_its_input():
    """Why groups of one are best for Whisper, and not groups of sqrt(n)."""
    encoder = whisper.load_model(DEEP, "cpu").encoder
    x = torch.randn(1, 40, 64, requires_grad=True)
    inside = kept_bytes(lambda: encoder.layers[0](x), list(encoder.parameters())) / x.nbytes
    assert 10 < inside < 25
    assert best_group(6, inside) == 1
    assert best_group(36, inside=1) == 6


@given(st.integers(1, 60), st.floats(1, 40))
def test_no_group_keeps_less_than_the_best(layers, inside):
    least = predict_kept(layers, best_group(layers, inside), inside)
    assert all(least <= predict_kept(layers, every, inside) for every in range(1, layers + 1))
    assert least <= 1 + layers + inside


@given(st.lists(st.integers(), max_size=40), st.integers(1, 45))
def test_groups_are_the_layers_in_order(layers, every):
    groups = list(checkpointing.split(layers, every))
    assert [layer for group in groups for layer in group] == layers
    assert all(len(group) == every for group in groups[:-1])
