"""Attention modes on torch alone: gradients, half precision, memory, refusals, and Whisper's text with each."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from attention_autograd import tiled_for_training
from torch.autograd.gradcheck import GradcheckError

from labsupport import whisper
from labsupport.base.errors import NotAvailable
from labsupport.optim import attention, attention_backward
from labsupport.optim.attention import MODES, eager, flash, tiled

EXACT = ["eager", "sdpa", "tiled", "flash"]


def draw(*shape: int, dtype=torch.float32, seed: int = 0, grad: bool = False):
    """q, k, v of one shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_(grad) for _ in "qkv"]


# --- gradients --------------------------------------------------------------------------------------------------------


def make_mask(queries: int, keys: int) -> torch.Tensor:
    mask = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[0, :, 1] = False  # a query without any key
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_gradient_by_recomputation_equals_finite_differences(masked, causal):
    q, k, v = draw(2, 2, 5, 3, dtype=torch.float64, grad=True)
    mask = make_mask(5, 5) if masked else None
    assert torch.autograd.gradcheck(lambda q, k, v: tiled_for_training(q, k, v, mask, causal, 2, 3), (q, k, v))


@pytest.mark.parametrize("causal", [False, True])
def test_gradient_by_recomputation_equals_eager_s(causal):
    weight = torch.randn(2, 2, 7, 4, dtype=torch.float64)
    found = {}
    for name, function in (("eager", eager), ("recomputed", tiled_for_training)):
        tensors = draw(2, 2, 7, 4, dtype=torch.float64, grad=True)
        (function(*tensors, make_mask(7, 7), causal) * weight).sum().backward()
        found[name] = [x.grad for x in tensors]
    for mine, theirs in zip(found["recomputed"], found["eager"], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_wrong_gradient_shows(monkeypatch):
    right = attention_backward.block_gradients

    def without_the_softmax_s_own(weights, dout, delta, q, k, v):
        return right(weights, dout, delta * 0, q, k, v)

    monkeypatch.setattr(attention_backward, "block_gradients", without_the_softmax_s_own)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(tiled_for_training, draw(1, 1, 4, 3, dtype=torch.float64, grad=True))


def test_only_the_backward_pass_computes_scores_again(monkeypatch):
    blocks = []
    once = attention.block_scores
    counted = lambda *arguments: blocks.append(1) or once(*arguments)  # noqa: E731
    monkeypatch.setattr(attention, "block_scores", counted)
    monkeypatch.setattr(attention_backward, "block_scores", counted)
    out = tiled_for_training(*draw(1, 1, 12, 4, grad=True), None, False, 4, 3)
    assert len(blocks) == 3 * 4
    out.sum().backward()
    assert len(blocks) == 2 * 3 * 4


# --- half precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", [*EXACT, "local"])
def test_half_precision_is_near_float64(name, dtype, tolerance):
    q, k, v = draw(1, 2, 70, 16, dtype=dtype)
    mask = torch.ones(1, 1, 1, 70, dtype=torch.bool)
    mask[..., 60:] = False
    out = MODES[name](q, k, v, mask)
    assert out.dtype == dtype
    expected = eager(q.double(), k.double(), v.double(), mask)
    assert (out - expected).abs().max() < tolerance


def test_tiled_keeps_its_sums_in_float32():
    ones = torch.ones(1, 1, 4096, 16, dtype=torch.float16)  # in float16, 2048 + 1 is 2048
    assert (tiled(ones, ones, ones) - 1).abs().max() < 1e-3


# --- memory -----------------------------------------------------------------------------------------------------------


def allocated_peak(work, folder) -> int:
    """The most bytes that torch's allocator held at once during the work: exact, where resident memory is noisy."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    recorded.export_chrome_trace(str(folder / "memory.json"))
    events = json.loads((folder / "memory.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(itertools.accumulate(size for _, size in changes))


def test_memory_of_eager_grows_with_the_square_of_the_length_and_that_of_tiled_and_local_does_not(tmp_path):
    lengths = (512, 1024, 2048, 4096)
    peaks = {}
    for function in (eager, tiled, attention.local):
        with torch.inference_mode():
            inputs = [draw(1, 1, length, 16) for length in lengths]
            peaks[function] = [allocated_peak(lambda f=function, qkv=qkv: f(*qkv), tmp_path) for qkv in inputs]
    squares = peaks.pop(eager)
    assert all(3.8 < after / before < 4.1 for before, after in itertools.pairwise(squares))
    for grown in peaks.values():
        assert all(after < 2.1 * before for before, after in itertools.pairwise(grown))
        assert grown[-1] < squares[-1] / 10


def test_training_by_recomputation_needs_a_fraction_of_eager_s_memory(tmp_path):
    def train(function):
        function(*draw(1, 1, 4096, 16, grad=True)).sum().backward()

    peaks = {f: allocated_peak(lambda f=f: train(f), tmp_path) for f in (eager, tiled_for_training)}
    assert peaks[tiled_for_training] < peaks[eager] / 4


# --- the fused kernel, or nothing -------------------------------------------------------------------------------------


def test_flash_uses_the_flash_kernel():
    with torch.profiler.profile() as recorded:
        flash(*draw(1, 2, 8, 16))
    assert any("flash_attention" in event.key for event in recorded.key_averages())


def test_flash_refuses_what_its_kernel_cannot_take_and_says_why():
    q, k, _ = draw(1, 2, 8, 16)
    with pytest.raises(NotAvailable, match="same last dimension"):
        flash(q, k, torch.randn(1, 2, 8, 4))
    with pytest.raises(NotAvailable, match="dtype"):
        flash(q.int(), q.int(), q.int())


def test_an_error_of_the_caller_is_no_missing_kernel():
    q, k, v = draw(1, 2, 8, 16)
    with pytest.raises(RuntimeError, match="same dtype"):
        flash(q, k.double(), v)


@pytest.mark.weights
@pytest.mark.parametrize("mode", [name for name in EXACT if name != "sdpa"])
def test_whisper_gives_the_same_text_with_every_exact_mode(tiny, jfk, mode):
    text = whisper.load("tiny.en", attn_implementation=mode).transcribe(jfk).text
    assert text == tiny.ours.transcribe(jfk).text
    assert np.char.count(text, "your country") == 2
