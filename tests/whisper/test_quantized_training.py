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
from labsupport.whisper.quantized import QuantizedLinear, linear_layers, quantize_model
from labsupport.whisper.quantized_training import FakeQuantize, convert_qat, distill, prepare_qat

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
    rounded = FakeQuantize(scheme)(weight)
    assert torch.allclose(rounded, quantize(weight, scheme).dequantize(), atol=1e-6)
    slope = torch.randn(5, 16)
    rounded.backward(slope)
    assert torch.equal(weight.grad, slope)


def test_a_prepared_model_gives_the_logits_of_the_quantised_one():
    mel, tokens = example(0)
    quantised = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=COARSE))
    with torch.no_grad():
        assert torch.allclose(prepare_qat(small(), COARSE)(mel, tokens), quantised(mel, tokens), atol=1e-4)


def test_only_weights_of_linear_layers_are_trained():
    model = prepare_qat(small(), COARSE)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.parametrizations.weight.original" for name, _ in linear_layers(small())}


def test_converted_without_training_the_weights_are_the_first_ones():
    model = convert_qat(prepare_qat(small(), COARSE))
    assert {name: type(module) for name, module in model.named_modules()} == {
        name: type(module) for name, module in small().named_modules()
    }
    for name, weight in small().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def held_out(teacher: nn.Module, student: nn.Module) -> float:
    """Nats a token on examples that no training uses."""
    examples = [example(1000 + seed) for seed in range(5)]
    return np.mean([quantized_training.kl_divergence(teacher, student, *each).item() for each in examples])


def test_training_brings_the_logits_nearer_on_held_out_sounds():
    teacher, student = small(), prepare_qat(small(), COARSE)
    before = held_out(teacher, student)
    seeds = iter(range(40))
    losses = distill(teacher, student, lambda: example(next(seeds)), steps=40, lr=1e-4)
    assert len(losses) == 40
    assert held_out(teacher, student) < 0.5 * before
    for name, weight in small().state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight), name


def test_the_converted_model_quantises_to_what_was_trained():
    teacher, student = small(), prepare_qat(small(), COARSE)
    distill(teacher, student, lambda: example(0), steps=2, lr=1e-3)
    mel, tokens = example(1)
    with torch.no_grad():
        trained = student(mel, tokens)
        quantised = quantize_model(convert_qat(student), functools.partial(QuantizedLinear.of, scheme=COARSE))
        assert torch.allclose(quantised(mel, tokens), trained, atol=1e-4)
        assert not torch.allclose(teacher(mel, tokens), trained, atol=1e-2)
