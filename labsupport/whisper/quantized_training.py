"""Quantisation-aware training (QAT): weights learn to round well. For torch.

Between `prepare_qat` and `convert_qat` every product uses the weights as their codes will have them, and the training
changes the float32 weights behind. Rounding has a slope of zero; the **straight-through** estimator takes that of a
straight line instead.

Source: Jacob et al. 2018, section 3 (training with simulated quantisation); Bengio et al. 2013 (straight-through).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from labsupport.optim.quantization import Scheme, quantize
from labsupport.whisper.quantized import linear_layers

Example = tuple[Tensor, Tensor]  # (1, mels, 3000) float32 log-mel; (1, length) int64 tokens


class FakeQuantize(nn.Module):
    """(rows, columns) float32 -> the same, quantised and dequantised; gradients pass unchanged."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (quantize(weight, self.scheme).dequantize() - weight).detach()


def prepare_qat(model: nn.Module, scheme: Scheme) -> nn.Module:
    """Makes all linear layers compute with rounded weights, in place; these weights alone are trained."""
    model.requires_grad_(False)
    for _, linear in list(linear_layers(model)):
        linear.weight.requires_grad_(True)
        parametrize.register_parametrization(linear, "weight", FakeQuantize(scheme))
    return model


def convert_qat(model: nn.Module) -> nn.Module:
    """Makes plain linear layers again, in place, with the trained float32 weights.

    Quantised with the scheme of the training, they get the codes that the training computed with.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return model.requires_grad_(False)


def distill(
    teacher: nn.Module, student: nn.Module, draw: Callable[[], Example], steps: int, lr: float = 3e-5
) -> list[float]:
    """Trains the student to give the teacher's distribution of the next token, on one drawn example a step.

    `lr` is AdamW's, which falls linearly to zero. Gives each step's loss, in nats a token: see `kl_divergence`.
    """
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    losses = []
    for _ in range(steps):
        loss = kl_divergence(teacher, student, *draw())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def kl_divergence(teacher: nn.Module, student: nn.Module, mel: Tensor, tokens: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the student's next tokens from the teacher's, in nats a token."""
    with torch.no_grad():
        expected = F.log_softmax(teacher(mel, tokens), dim=-1)  # (1, length, vocab)
    found = F.log_softmax(student(mel, tokens), dim=-1)
    return F.kl_div(found, expected, log_target=True, reduction="sum") / tokens.numel()
