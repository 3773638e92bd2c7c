"""A rewrite for a chip that holds the caches in its own DRAM between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labsupport.base.errors import SophonError

if TYPE_CHECKING:
    import onnx


def new_rows_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """A decode step that gives its new row of each cache, not the whole cache with the row in it; the caller writes
    the row where the oldest one was.

    Attention does not depend on the order of its keys, so a cache may be a ring buffer. Inside, the row is still
    appended for attention to read, but on the chip, and nothing stores the result.

    Args:
        model: outputs k.i and v.i are what a Concat of the past and one new row gives; the model is left as it is.

    Raises:
        SophonError: such an output is not made by a Concat, or there is none.
    """
    import onnx
    from onnx import helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    makers = {name: node for node in graph.node for name in node.output}
    caches = [output for output in graph.output if output.name.startswith(("k.", "v."))]
    if not caches:
        raise SophonError("This graph has no outputs k.i and v.i.", where=graph.name)
    for output in caches:
        concat, whole = makers[output.name], f"{output.name}/whole"
        if concat.op_type != "Concat" or len(concat.input) != 2:
            raise SophonError(f"{output.name} is not made by appending a row.", where=concat.op_type)
        for node in graph.node:
            node.input[:] = [whole if name == output.name else name for name in node.input]
        concat.output[:] = [whole]
        axis = next(attribute.i for attribute in concat.attribute if attribute.name == "axis")
        output.type.tensor_type.shape.dim[axis].dim_value = 1
        graph.node.append(helper.make_node("Identity", [concat.input[1]], [output.name], name=output.name))
    del graph.value_info[:]
    return changed
