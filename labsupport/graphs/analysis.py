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
SMALL_BYTES = 1024  # larger constants play no part in shapes
VIEW_OPS = {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}  # they move no data
INDEXING_OPS = {"Gather", "Slice"}  # they read as much as they write, not their whole input


def shapes_of(model: onnx.ModelProto, **lengths: int) -> dict[str, Shape]:
    """The shape of every value, by strict inference; ints, names of symbolic lengths, or None for an unknown one.

    `lengths` gives symbolic lengths a value, `past=100`. Raises GraphError if the graph is not valid, or two shapes
    contradict each other.
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

    def is_small(tensor: onnx.TensorProto) -> bool:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)  # not ByteSize(), which writes the tensor out
        return math.prod(tensor.dims) * dtype.itemsize <= SMALL_BYTES

    small = [tensor for tensor in model.graph.initializer if is_small(tensor)]
    large = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if not is_small(tensor)
    ]
    graph = helper.make_graph(
        model.graph.node, model.graph.name, [*model.graph.input, *large], model.graph.output, small
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def shape_of(value: onnx.ValueInfoProto) -> Shape:
    """The declared shape of an input, an output or a value in between."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)


def op_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each op stands in the graph; constants are not counted."""
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def bytes_by_op(model: onnx.ModelProto, **lengths: int) -> dict[str, int]:
    """Bytes that each op reads and writes, the most first; ops that move nothing are left out.

    Each operand counts once, as from a perfect cache: see `node_bytes`. Raises GraphError as `shapes_of`, or if a
    symbolic length has no value in `lengths`.
    """
    shapes, sizes = shapes_of(model, **lengths), item_sizes(model)

    def size(name: str) -> int:
        dims = [dim for dim in shapes[name] if isinstance(dim, int)]
        if len(dims) < len(shapes[name]):
            raise GraphError(f"The size of {name} is not known: {shapes[name]}.", hint="Give its symbolic lengths.")
        return math.prod(dims) * sizes[name]

    total: Counter[str] = Counter()
    for node in model.graph.node:
        total[node.op_type] += node_bytes(node, size)
    return {op: count for op, count in total.most_common() if count}


def node_bytes(node: onnx.NodeProto, size: Callable[[str], int]) -> int:
    """Bytes that one node reads and writes; a ScatterND with shared buffers moves its new rows alone."""
    read, written = [size(name) for name in node.input if name], sum(size(name) for name in node.output if name)
    if node.op_type in VIEW_OPS:
        return 0
    if node.op_type in INDEXING_OPS:
        return 2 * written + sum(read[1:])
    if node.op_type == "ScatterND":
        return read[1] + 2 * read[2]
    return sum(read) + written


def item_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of one item of every value."""
    import onnx

    def item_size(kind: int) -> int:
        return onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize

    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    sizes = {value.name: item_size(value.type.tensor_type.elem_type) for value in values}
    return sizes | {tensor.name: item_size(tensor.data_type) for tensor in graph.initializer}
