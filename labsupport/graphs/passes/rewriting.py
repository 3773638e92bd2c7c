"""The frame of a pass, and what a pass reads of nodes, constants and axes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
from labsupport.graphs.analysis import check

# --- the frame of a pass ---------------------------------------------------------------------------------------------


def rewriting(change: Callable[..., bool]) -> Callable[..., onnx.ModelProto]:
    """Turns a function that changes onnx_ir's graph in place, and says whether it did, into model -> model.

    The model given stays as it is. If nothing matched, the result is equal to it byte for byte; else the result has
    been checked, and says every shape.
    """

    @functools.wraps(change)
    def apply(model: onnx.ModelProto, **options) -> onnx.ModelProto:
        import onnx
        import onnx_ir as ir

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
    import onnx_ir.passes.common as passes

    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # else a stale one would stay
    passes.ShapeInferencePass()(model)


def finish(model: ir.Model) -> onnx.ModelProto:
    """The graph in order, without what nobody reads, with its shapes, and checked; raises as `shapes_of`."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    tidy = [passes.IdentityEliminationPass(), passes.RemoveUnusedNodesPass(), passes.TopologicalSortPass()]
    for step in [*tidy, passes.NameFixPass()]:
        step(model)
    infer(model)
    rewritten = ir.to_proto(model)
    check(rewritten)
    return rewritten


# --- reading nodes ---------------------------------------------------------------------------------------------------


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant; None for anything that is computed."""
    import onnx_ir as ir

    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def dims(value: ir.Value) -> list[int | None] | None:
    """The shape with None for every free length; None if not even the number of axes is known."""
    return None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]


def is_op(node: ir.Node | None, *kinds: str) -> bool:
    """Whether this is a node of ONNX's own set, of one of these kinds."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in kinds


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The graph's constant of this name; made if it is not there yet, with a number after a name that is taken."""
    import onnx_ir as ir

    taken, wanted, number = graph.initializers, name, 0
    while wanted in taken:
        old = constant(taken[wanted])
        if old is not None and old.dtype == array.dtype and np.array_equal(old, array):
            return taken[wanted]
        number += 1
        wanted = f"{name}.{number}"
    value = ir.Value(
        name=wanted,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=wanted),
    )
    graph.register_initializer(value)
    return value


# --- following an axis -----------------------------------------------------------------------------------------------


def axis_through_reshape(before: list[int | None], after: list[int | None], axis: int) -> int | None:
    """Where an axis longer than 1 is after a change of shape that moves only axes of length 1; else None."""
    longer = [[place for place, dim in enumerate(shape) if dim != 1] for shape in (before, after)]
    same = [before[a] == after[b] for a, b in zip(*longer, strict=False)]
    if len(longer[0]) != len(longer[1]) or not all(same) or axis not in longer[0]:
        return None
    return longer[1][longer[0].index(axis)]


def moves_only_ones(shape: list[int | None], perm: tuple[int, ...]) -> bool:
    """Whether a permute leaves the order in memory as it is: the axes longer than 1 keep their order."""
    longer = [axis for axis in perm if shape[axis] != 1]
    return longer == sorted(longer)
