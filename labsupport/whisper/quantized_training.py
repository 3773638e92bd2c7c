"""Quantisation-aware training: weights learn to round well. For torch.

While a model is **rehearsing**, every product sees its weights as their codes will have them, and the steps of the
training go to the float32 weights behind. Rounding has no slope to follow; the **straight-through** trick takes that
of a straight line.

Source: Jacob et al. 2018, section 3 (training with simulated quantisation); Bengio et al. 2013 (straight-through).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from labsupport.optim.quantization import Scheme, quantize
from labsupport.whisper.quantized import linears

Example = tuple[Tensor, Tensor]  # (1, mels, 3000) float32 log-mel; (1, length) int64 tokens


class StraightThrough(nn.Module):
    """(rows, columns) float32 -> the same, each number as its code gives it; gradients pass unchanged."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (quantize(weight, self.scheme).dequantize() - weight).detach()


def rehearse(model: nn.Module, scheme: Scheme) -> nn.Module:
    """Lets all linear layers compute with rounded weights, in place, and nothing but these weights learn."""
    model.requires_grad_(False)
    for _, linear in list(linears(model)):
        linear.weight.requires_grad_(True)
        parametrize.register_parametrization(linear, "weight", StraightThrough(scheme))
    return model


def settle(model: nn.Module) -> nn.Module:
    """Ends the rehearsal, in place: plain linear layers again, with the float32 weights that were learnt.

    Quantised with the scheme of the rehearsal, they have the codes that were rehearsed.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return model.requires_grad_(False)


def distil(
    teacher: nn.Module, student: nn.Module, draw: Callable[[], Example], steps: int, rate: float = 3e-5
) -> list[float]:
    """Trains the student to score the next token as the teacher does. No text is needed but what `draw` gives.

    Args:
        draw: gives an example; each step takes one.
        rate: AdamW's step size, which falls to zero in a straight line.

    Returns:
        each step's loss: how far the scores are apart, in nats a token (Kullback-Leibler divergence).
    """
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    losses = []
    for _ in range(steps):
        loss = disagreement(teacher, student, *draw())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def disagreement(teacher: nn.Module, student: nn.Module, mel: Tensor, tokens: Tensor) -> Tensor:
    """Nats a token by which the student's scores of each next token differ from the teacher's."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher(mel, tokens), dim=-1)
    given = F.log_softmax(student(mel, tokens), dim=-1)
    return F.kl_div(given, wanted, log_target=True, reduction="sum") / tokens.numel()
