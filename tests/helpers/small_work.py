"""Small work to profile, on torch."""

from __future__ import annotations

import torch

from labsupport import profiling


def multiply_and_activate(n: int = 64) -> torch.Tensor:
    x = torch.ones(n, n)
    for _ in range(5):
        x = torch.softmax(torch.nn.functional.linear(x, x), -1)
    return torch.nn.functional.conv1d(x[None], torch.ones(8, n, 3), padding=1)


def two_phases() -> None:
    with profiling.phase("first"):
        multiply_and_activate()
    with profiling.phase("second"):
        torch.ones(300, 300).sort()
