"""The parts of a graph: names, constants, and each part's numbers against torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from small_graphs import first_output
from small_whisper import SMALL
from torch.nn import functional

from labsupport.graphs import builder
from labsupport.graphs.builder import Graph
from labsupport.graphs.session import open_session
from labsupport.graphs.whisper_graphs import encoder
from labsupport.whisper import torch_model

X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)


def graph_of(build, **tensors: np.ndarray) -> onnx.ModelProto:
    """x (2, 3, 8) -> what `build` makes of it, the graph's output."""
    g = Graph("part", {f"model.{name}": array for name, array in tensors.items()})
    g.output(build(g, g.input("x", np.float32, X.shape)), "y", np.float32, ("a", "b", "c"))
    return g.finish()


def test_a_name_given_twice_makes_two_values_and_one_constant():
    g = Graph("names", {})
    one, again = (g.constant("one", np.float32(n)) for n in (1, 2))
    assert one == again == "one"
    x = g.input("x", np.float32, (2,))
    assert [g.op("Add", x, one, name="sum") for _ in range(3)] == ["sum", "sum.2", "sum.3"]
    g.output("sum.2", "y", np.float32, (2,))
    g.output(g.op("Neg", "y", name="negative"), "z", np.float32, (2,))
    y, z = open_session(g.finish()).run(None, {"x": np.zeros(2, np.float32)})
    assert (y.tolist(), z.tolist()) == ([1, 1], [-1, -1])


def test_the_parts_of_a_layer_equal_torchs():
    rng = np.random.default_rng(1)
    weight, bias, scale = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 8), 8, 8))
    tensors = {"part.weight": weight, "part.bias": bias}
    x = torch.from_numpy(X)
    cases = [
        (
            graph_of(lambda g, x: builder.linear(g, x, "part"), **tensors),
            functional.linear(x, *map(torch.tensor, (weight, bias))),
        ),
        (
            graph_of(lambda g, x: builder.linear(g, x, "part", bias=False), **tensors),
            functional.linear(x, torch.tensor(weight)),
        ),
        (graph_of(lambda g, x: builder.gelu(g, x, "part")), functional.gelu(x)),
        (
            graph_of(lambda g, x: builder.layer_norm(g, x, "part"), **{"part.weight": scale, "part.bias": bias}),
            functional.layer_norm(x, (8,), torch.tensor(scale), torch.tensor(bias)),
        ),
    ]
    for model, expected in cases:
        np.testing.assert_allclose(first_output(model, {"x": X}), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("epsilon", "equal"), [(1e-5, True), (1e-2, False)])
def test_a_wrong_epsilon_would_be_noticed(monkeypatch, epsilon, equal):
    mel = np.random.default_rng(0).normal(size=(1, 80, 60)).astype(np.float32)
    monkeypatch.setattr(builder, "EPSILON", epsilon)
    difference = np.abs(first_output(encoder(SMALL), {"mel": mel}) - torch_model.load_model(SMALL).encode(mel).numpy())
    assert (difference.max() < 1e-4) == equal
