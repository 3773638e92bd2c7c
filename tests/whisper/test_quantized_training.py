"""Training with rounded weights: the rounding, its gradient, what learns, and that learning helps."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from labsupport import whisper
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.quantization import Scheme, quantize
from labsupport.whisper import quantized_training
from labsupport.whisper.quantized import QuantizedLinear, linears, quantize_model
from labsupport.whisper.quantized_training import StraightThrough, distil, rehearse, settle

SMALL = Checkpoint("small", None, Config(64, 2, 2, 2, 90, audio_positions=40), random=True)
COARSE = Scheme(4, "tensor")


def small() -> nn.Module:
    return whisper.load_model(SMALL, "cpu")


def example(seed: int) -> quantized_training.Example:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 80, 80, generator=generator), torch.randint(0, 90, (1, 12), generator=generator)


@pytest.mark.parametrize("scheme", [COARSE, Scheme(4, 8), Scheme(8, "channel", False)])
def test_forward_rounds_and_the_gradient_passes_unchanged(scheme):
    weight = torch.randn(5, 16, requires_grad=True)
    rounded = StraightThrough(scheme)(weight)
    assert torch.allclose(rounded, quantize(weight, scheme).dequantize(), atol=1e-6)
    slope = torch.randn(5, 16)
    rounded.backward(slope)
    assert torch.equal(weight.grad, slope)


def test_a_rehearsing_model_is_the_quantised_one():
    mel, tokens = example(0)
    quantised = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=COARSE))
    with torch.no_grad():
        assert torch.allclose(rehearse(small(), COARSE)(mel, tokens), quantised(mel, tokens), atol=1e-4)


def test_only_weights_of_linear_layers_learn():
    model = rehearse(small(), COARSE)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"{name}.parametrizations.weight.original" for name, _ in linears(small())}


def test_settling_without_training_gives_the_first_weights_back():
    model = settle(rehearse(small(), COARSE))
    assert {name: type(module) for name, module in model.named_modules()} == {
        name: type(module) for name, module in small().named_modules()
    }
    for name, weight in small().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def held_out(teacher: nn.Module, student: nn.Module) -> float:
    """Nats a token on examples that no training sees."""
    examples = [example(1000 + seed) for seed in range(5)]
    return np.mean([quantized_training.disagreement(teacher, student, *each).item() for each in examples])


def test_training_brings_the_scores_nearer_on_sounds_never_seen():
    teacher, student = small(), rehearse(small(), COARSE)
    before = held_out(teacher, student)
    seeds = iter(range(40))
    losses = distil(teacher, student, lambda: example(next(seeds)), steps=40, rate=1e-4)
    assert len(losses) == 40
    assert held_out(teacher, student) < 0.5 * before
    for name, weight in small().state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight), name


def test_what_was_rehearsed_is_what_the_settled_model_quantises_to():
    teacher, student = small(), rehearse(small(), COARSE)
    distil(teacher, student, lambda: example(0), steps=2, rate=1e-3)
    mel, tokens = example(1)
    with torch.no_grad():
        rehearsed = student(mel, tokens)
        quantised = quantize_model(settle(student), functools.partial(QuantizedLinear.of, scheme=COARSE))
        assert torch.allclose(quantised(mel, tokens), rehearsed, atol=1e-4)
        assert not torch.allclose(teacher(mel, tokens), rehearsed, atol=1e-2)
