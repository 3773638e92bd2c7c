"""An ONNX graph read: shapes, op counts, bytes moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from labsupport.base.errors import GraphError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str | None, ...]
SMALL = 1024  # bytes; larger constants play no part in shapes
FREE = {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}  # ONNX Runtime moves no data
HALF_READ = {"Gather", "Slice"}  # they read as much as they write, not their whole input


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
