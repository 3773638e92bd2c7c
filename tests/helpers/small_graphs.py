"""Graphs of a few nodes, written by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from labsupport.graphs.analysis import shape_of
from labsupport.graphs.session import open_session


def small_graph(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    """Float32 inputs and outputs by name and shape; constants by name and array."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in part.items()]
        for part in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "small", *values, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def product() -> onnx.ModelProto:
    """c = a @ b"""
    return small_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (4, 4), "b": (4, 4)}, {"c": (4, 4)})


def matrices(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for `product`."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((4, 4)).astype(np.float32) for name in "ab"}


def random_feed(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Float32 inputs for a graph of fixed shapes."""
    random = np.random.default_rng(seed)
    return {value.name: random.standard_normal(shape_of(value)).astype(np.float32) for value in model.graph.input}


def first_output(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of the graph as it is written, without ONNX Runtime's optimiser."""
    return open_session(model, optimise=False, threads=1).run(None, feed)[0]
