"""What every rewrite of an ONNX graph needs: shapes, constants, counts, and the frame around a pass."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LabError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Shape = tuple[int | str | None, ...]
SMALL = 1024  # bytes; larger constants play no part in shapes
FREE = {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}  # ONNX Runtime moves no data
HALF_READ = {"Gather", "Slice"}  # they read as much as they write, not their whole input


class GraphError(LabError):
    """A graph whose types or shapes contradict each other, or that lacks what was asked for."""


# --- shapes --------------------------------------------------------------------------------------------------------


def shapes_of(model: onnx.ModelProto, **lengths: int) -> dict[str, Shape]:
    """The shape of every value, by strict inference; ints, names of free lengths, or None where nothing is known.

    Args:
        lengths: what to put for the graph's free lengths, `past=100`.

    Raises:
        GraphError: the graph is not valid, or two shapes contradict each other.
    """
    import onnx

    bare = without_weights(model)
    for value in [*bare.graph.input, *bare.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in lengths:
                dim.dim_value = lengths[dim.dim_param]
    try:
        onnx.checker.check_model(bare)
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"The graph contradicts itself: {error}", where=model.graph.name) from error
    graph = inferred.graph
    known = {value.name: shape_of(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    return known | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large constants as inputs: shapes do not depend on them, and copying them takes long."""
    from onnx import helper

    small = [tensor for tensor in model.graph.initializer if tensor.ByteSize() <= SMALL]
    large = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if tensor.ByteSize() > SMALL
    ]
    graph = helper.make_graph(
        model.graph.node, model.graph.name, [*model.graph.input, *large], model.graph.output, small
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def shape_of(value: onnx.ValueInfoProto) -> Shape:
    """The declared shape of an input, an output or a value in between."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)


def check(model: onnx.ModelProto) -> None:
    """Checks the whole graph against ONNX's rules, and every shape.

    Raises:
        GraphError: something does not fit.
    """
    shapes_of(model)


# --- counting ------------------------------------------------------------------------------------------------------


def op_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each op stands in the graph; constants are none."""
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def bytes_moved(model: onnx.ModelProto, **lengths: int) -> list[tuple[onnx.NodeProto, int]]:
    """Every node with the bytes that it reads and writes: each operand once, as from a perfect cache.

    A Gather or Slice reads what it gives, a ScatterND with shared buffers moves its new rows alone, and a change of
    shape moves nothing.

    Args:
        lengths: what to put for the graph's free lengths, `past=100`.

    Raises:
        GraphError: as `shapes_of`; or a length is still free.
    """
    shapes, sizes = shapes_of(model, **lengths), item_sizes(model, **lengths)

    def size(name: str) -> int:
        shape = shapes[name]
        if not all(isinstance(dim, int) for dim in shape):
            raise GraphError(f"The size of {name} is not known: {shape}.", hint="Say what its free lengths are.")
        return math.prod(shape) * sizes[name]

    return [(node, moved(node, size)) for node in model.graph.node]


def moved(node: onnx.NodeProto, size: Callable[[str], int]) -> int:
    """Bytes that one node reads and writes."""
    read, written = [size(name) for name in node.input if name], sum(size(name) for name in node.output if name)
    if node.op_type in FREE:
        return 0
    if node.op_type in HALF_READ:
        return 2 * written + sum(read[1:])
    if node.op_type == "ScatterND":
        return read[1] + 2 * read[2]
    return sum(read) + written


def item_sizes(model: onnx.ModelProto, **lengths: int) -> dict[str, int]:
    """Bytes of one item of every value."""
    import onnx

    def item_size(kind: int) -> int:
        return onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize

    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    sizes = {value.name: item_size(value.type.tensor_type.elem_type) for value in values}
    return sizes | {tensor.name: item_size(tensor.data_type) for tensor in graph.initializer}


def bytes_by_op(model: onnx.ModelProto, **lengths: int) -> dict[str, int]:
    """`bytes_moved` for each op together, the most first; ops that move nothing are left out."""
    total = Counter()
    for node, count in bytes_moved(model, **lengths):
        total[node.op_type] += count
    return {op: count for op, count in total.most_common() if count}


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
