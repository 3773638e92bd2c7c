"""What our Triton kernel refuses, before it is compiled; its numbers are tested in test_flash_triton_kernel.py."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from labsupport.base.errors import NotAvailable
from labsupport.optim.flash_triton import flash_triton


def make_inputs(device: str):
    return [torch.ones(1, 1, 4, 16, device=device) for _ in "qkv"]


def test_refuses_tensors_outside_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(NotAvailable, match="GPU"):
        flash_triton(*make_inputs("cpu"))


def test_says_that_triton_is_missing(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(NotAvailable, match="package triton"):
        flash_triton(*make_inputs("cpu"))


def test_refuses_a_mask():
    with pytest.raises(NotAvailable, match="mask"):
        flash_triton(*make_inputs("cpu"), mask=torch.ones(4, 4, dtype=torch.bool))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda q, k, v: (q[..., :12], k[..., :12], v[..., :12]), "head_dim 12"),
        (lambda q, k, v: (q.half(), k, v), "float16 with float32"),
        (lambda q, k, v: (q.double(), k.double(), v.double()), "float64"),
        (lambda q, k, v: (q.requires_grad_(), k, v), "backward"),
    ],
)
def test_refuses_what_the_kernel_does_not_take(spoil, message):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with pytest.raises(NotAvailable, match=message):
        flash_triton(*spoil(*make_inputs(device)))
