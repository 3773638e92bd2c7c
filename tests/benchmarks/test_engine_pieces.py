"""Each library's form of a piece gives the exact result as well as its numbers can, and one that does not is seen."""

import numpy as np
import pytest
import torch

from labsupport.base.errors import BenchError
from labsupport.benchmarks import engine_pieces
from labsupport.benchmarks.engine_pieces import FARTHEST, Attention, Products, make_tasks, with_ranges

MAKERS = {
    "openvino": engine_pieces.openvino_work,
    "onnxruntime": engine_pieces.onnxruntime_work,
    "torch": engine_pieces.torch_work,
}
NO_KERNEL = {("onnxruntime", "bfloat16"), ("onnxruntime", "int8 attention"), ("torch", "int8 attention")}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def make_products(rows=5, ranged=True):
    x, weights = normal(0, rows, 64), [normal(1, 128, 64), normal(2, 32, 128)]
    return with_ranges(x, weights) if ranged else Products(x, weights)


def make_attention(queries, fixed):
    return Attention(normal(3, 2, 4, queries, 16), normal(4, 2, 4, 50, 16), normal(5, 2, 4, 50, 16), fixed)


PIECES = {
    "ranged": make_products(),
    "weights alone": make_products(ranged=False),
    "attention": make_attention(7, fixed=False),
    "fixed": make_attention(1, fixed=True),
}


def test_the_exact_results_are_torchs_in_float64():
    products, attention = PIECES["ranged"], PIECES["attention"]
    x = torch.from_numpy(products.inputs).double()
    for weight in products.weights:
        x = x @ torch.from_numpy(weight).double().T
    np.testing.assert_allclose(products.exact(), x.numpy(), rtol=1e-12)
    q, k, v = (torch.from_numpy(array).double() for array in (attention.q, attention.k, attention.v))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(attention.exact(), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FARTHEST)
@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("library", MAKERS)
def test_a_form_is_as_exact_as_it_can_be_or_has_no_kernel(library, piece, form):
    work = MAKERS[library](PIECES[piece], form)
    if work is None:
        attention = isinstance(PIECES[piece], Attention)
        no_kernel = (library, f"{form} attention") in NO_KERNEL or (library, form) in NO_KERNEL
        assert no_kernel or (attention and form == "int8" and piece == "attention")
        return
    exact = PIECES[piece].exact()
    for _ in range(3):  # what stays from run to run must not change it
        result = work()
        assert result.shape == exact.shape
        assert np.linalg.norm(result - exact) < FARTHEST[form] * np.linalg.norm(exact)


def test_a_rounded_form_differs_from_the_exact_result():
    piece = PIECES["ranged"]
    errors = [
        np.linalg.norm(engine_pieces.openvino_work(piece, form)() - piece.exact()) for form in ("float32", "int8")
    ]
    assert errors[1] > 100 * errors[0]


def test_a_piece_that_computes_something_else_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(engine_pieces, "make_pieces", lambda model: {"encoder: a net": PIECES["ranged"]})
    assert list(make_tasks("torch", "base")) == [f"encoder: a net, {form}" for form in FARTHEST]
    monkeypatch.setattr(Products, "exact", lambda self: 2 * np.ones((5, 32)))
    with pytest.raises(BenchError, match="from the exact result"):
        make_tasks("torch", "base")


def test_steps_are_repeated_and_the_encoder_is_not(monkeypatch):
    calls = []
    monkeypatch.setattr(engine_pieces, "torch_work", lambda piece, form: lambda: calls.append(form) or piece.exact())
    monkeypatch.setattr(
        engine_pieces, "make_pieces", lambda model: {"encoder: a": PIECES["ranged"], "steps: b": PIECES["ranged"]}
    )
    tasks = make_tasks("torch", "base")
    for name, repeats in (("encoder: a, float32", 1), ("steps: b, float32", engine_pieces.STEPS)):
        calls.clear()
        assert tasks[name]() == "(5, 32)"
        assert calls == ["float32"] * repeats


@pytest.mark.weights
def test_pieces_have_the_models_shapes():
    pieces = engine_pieces.make_pieces("tiny.en")
    assert pieces["encoder: attention"].q.shape == (1, 6, 1500, 64)
    assert [weight.shape for weight in pieces["encoder: a feed-forward net"].weights] == [(1536, 384), (384, 1536)]
    assert pieces["32 steps, 8 texts: logits"].weights[0].shape == (51864, 384)
    assert len(pieces["32 steps, 1 texts: feed-forward nets"].weights) == 8
    assert pieces["32 steps, 8 texts: a layer's cross-attention"].fixed
