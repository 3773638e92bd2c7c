"""torch's `recompute` against plain backward and torch's own checkpointing; buffers in inference mode."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from labsupport import whisper
from labsupport.arrays import on_torch
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.checkpointing import checkpointed, uncheckpointed

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


def by_torch(layers):
    return [functools.partial(checkpoint, layer, use_reentrant=False) for layer in layers]


@pytest.mark.parametrize(("every", "frozen"), [(1, None), (4, None), (7, "conv"), (2, "layers.2")])
def test_gradients_are_those_of_plain_backward_and_of_torchs_checkpointing(every, frozen):
    found = gradients(functools.partial(checkpointed, every=every), frozen)
    for other in (uncheckpointed, by_torch):
        expected = gradients(other, frozen)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name


def test_mixed_precision_is_the_same_when_computed_again():
    plain, found, other = (gradients(run, half=True) for run in (uncheckpointed, checkpointed, by_torch))
    full = gradients(uncheckpointed)
    for name, gradient in plain.items():
        assert torch.equal(found[name], other[name]), name
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name
    assert any((full[name] - plain[name]).norm() > 1e-3 * plain[name].norm() for name in plain), "bfloat16 was used"


def test_a_lost_layer_shows():
    expected = gradients(uncheckpointed)
    assert gradients(lambda layers: checkpointed(list(layers)[:-1])).keys() != expected.keys()


def test_without_gradients_it_is_the_same_encoder():
    plain, ours = (whisper.load_model(DEEP, "cpu", run=run) for run in (uncheckpointed, checkpointed))
    assert (plain.encode(MEL.numpy()) - ours.encode(MEL.numpy())).abs().max() == 0


def test_a_buffer_can_be_written_in_inference_mode_and_outside_of_it():
    with torch.inference_mode():
        buffer = on_torch.buffer((1, 1, 3, 1), torch.ones(1))
        on_torch.write(buffer, torch.ones(1, 1, 1, 1), torch.tensor([1]))
    on_torch.write(buffer, torch.ones(1, 1, 1, 1), torch.tensor([2]))
    assert buffer.flatten().tolist() == [0, 1, 1]
