"""The frame of a pass, and what a pass reads of nodes, constants and axes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeGuard, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from labsupport.graphs.analysis import shapes_of

T = TypeVar("T")
Dims = list[int | None]  # a shape; None stands for a symbolic length


def rewriting(change: Callable[..., bool]) -> Callable[..., onnx.ModelProto]:
    """Turns a function that changes onnx_ir's graph in place, and returns whether it did, into model -> model.

    The model given stays as it is. If nothing matched, the result is equal to it byte for byte; else the result has
    been checked, and holds every shape.
    """

    @functools.wraps(change)
    def apply(model: onnx.ModelProto, **options) -> onnx.ModelProto:
        rewritten = ir.from_proto(model)
        infer(rewritten)
        if not change(rewritten, **options):
            same = onnx.ModelProto()
            same.CopyFrom(model)
            return same
        return finish(rewritten)

    return apply


def infer(model: ir.Model) -> None:
    """Writes the shapes of all values into the graph, as far as they can be known."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # else the shape from before the rewrite would stay
    passes.ShapeInferencePass()(model)


def finish(model: ir.Model) -> onnx.ModelProto:
    """The graph sorted, without unread nodes, with its shapes, and checked; raises as `shapes_of`."""
    tidy = [passes.IdentityEliminationPass(), passes.RemoveUnusedNodesPass(), passes.TopologicalSortPass()]
    for step in [*tidy, passes.NameFixPass()]:
        step(model)
    infer(model)
    rewritten = ir.to_proto(model)
    shapes_of(rewritten)
    return rewritten


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant; None for anything that is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def dims(value: ir.Value | None) -> Dims | None:
    """The shape with None for every symbolic length; None if not even the number of axes is known."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def known(item: T | None) -> T:
    """What is sure to be there once a pattern has matched; onnx_ir's types leave it open."""
    assert item is not None
    return item


def source(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes a value, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if is_op(node, kind) else None


def is_op(node: ir.Node | None, *kinds: str) -> TypeGuard[ir.Node]:
    """Whether this is a node of ONNX's standard ops, of one of these kinds."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in kinds


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The graph's constant of this name; made if it is not there yet, with a number after a name that is taken."""
    taken, wanted, number = graph.initializers, name, 0
    while wanted in taken:
        old = constant(taken[wanted])
        if old is not None and old.dtype == array.dtype and np.array_equal(old, array):
            return taken[wanted]
        number += 1
        wanted = f"{name}.{number}"
    tensor = ir.tensor(array, name=wanted)
    value = ir.Value(name=wanted, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
