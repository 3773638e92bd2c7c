"""Moves permutes behind a MatMul, where they cost nothing, or out to the caller, who stores caches as they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common

from labsupport.graphs.loop_interface import LAYOUTS
from labsupport.graphs.passes.cache import INDICES, row_indices
from labsupport.graphs.passes.rewriting import add_constant, constant, dims, infer, is_op, known, rewriting, source

MOVERS = ("Concat", "ScatterND", "Slice", "Tile")  # their first input passes through in any order of axes


@rewriting
def eliminate_permutes(model: ir.Model) -> bool:
    """Takes Transposes out in three steps, if that leaves fewer that move data.

    1. A @ permute(B) = permute(permute(B)' @ permute(A)): where A has one row, its permutes and the result's move
       nothing, and B has the order that its other uses want (article B: the input's permute behind the MatMul).
    2. An input that is only ever read permuted (through Tile, Concat, Slice, ScatterND) comes in permuted, and its
       output goes out so: the caller stores it in that order, which `read_layouts` gives.
    3. Pairs cancel; a permute of axes of length 1 becomes a Reshape, which moves nothing.
    """
    before = count_moving(model.graph)
    behind = pattern.RewriteRule(times_permuted, permuted_times, one_row_times_columns)
    pattern.RewriteRuleSet([behind]).apply_to_model(model)
    infer(model)
    for value in list(model.graph.inputs):
        move_permute_out(model, value)
    infer(model)
    free = pattern.RewriteRule(permuted, reshaped, keeps_memory_order)
    pattern.RewriteRuleSet([common.transpose_transpose_rule, common.no_op_transpose_rule]).apply_to_model(model)
    passes.IdentityEliminationPass()(model)
    infer(model)
    for rules in ([free], [common.reshape_reshape_rule]):
        pattern.RewriteRuleSet(rules).apply_to_model(model)
        infer(model)
    return count_moving(model.graph) < before


def count_moving(graph: ir.Graph) -> int:
    """Transposes that move data."""
    transposes = [(node, dims(node.inputs[0])) for node in graph if is_op(node, "Transpose")]
    return sum(shape is None or not moves_only_ones(shape, perm_of(node)) for node, shape in transposes)


def perm_of(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes["perm"].as_ints())


def moves_only_ones(shape: list[int | None], perm: tuple[int, ...]) -> bool:
    """Whether a permute leaves the order in memory as it is: the axes longer than 1 stay in order."""
    longer = [axis for axis in perm if shape[axis] != 1]
    return longer == sorted(longer)


# --- 1. behind the MatMul ---------------------------------------------------------------------------------------------


def times_permuted(op, a, b, perm):
    return op.MatMul(a, op.Transpose(b, perm=perm))


def one_row_times_columns(context, a: ir.Value, b: ir.Value, perm: ir.Attr) -> bool:
    """Whether A has one row, of as many axes as B, and B comes with its last two axes exchanged."""
    left, right, order = dims(a), dims(b), perm.as_ints()
    if left is None or right is None or len(left) != len(right) or len(left) < 2:
        return False
    return left[-2] == 1 and order[-2] > order[-1] and not moves_only_ones(right, tuple(order))


def permuted_times(op, a: ir.Value, b: ir.Value, perm: ir.Attr):
    """(B' @ A')', each ' an exchange of the last two axes."""
    order, last = perm.as_ints(), len(perm.as_ints()) - 1
    exchange = [*range(last - 1), last, last - 1]
    rows = op.Transpose(b, perm=[order[axis] for axis in exchange])
    return op.Transpose(op.MatMul(rows, op.Transpose(a, perm=exchange)), perm=exchange)


# --- 2. out to the caller ---------------------------------------------------------------------------------------------


def move_permute_out(model: ir.Model, value: ir.Value) -> None:
    """Gives an input, and all that only moves its data, the order of axes in which it is read; else nothing."""
    movers = list(movers_of(value))
    family = [value, *(mover.outputs[0] for mover in movers)]
    exits = [use.node for member in family for use in member.uses() if not passes_through(use.node, use.idx)]
    if not exits or not all(is_op(node, "Transpose") for node in exits) or any(dims(m) is None for m in family):
        return
    perms = {perm_of(node) for node in exits}
    if len(perms) != 1 or not all(map(can_permute, movers)):
        return
    perm = perms.pop()
    for mover in movers:
        permute_mover(model.graph, mover, perm, family)
    for member in family:
        member.shape = ir.Shape([known(member.shape)[axis] for axis in perm])
    for node in exits:
        node.outputs[0].replace_all_uses_with(known(node.inputs[0]))
        model.graph.remove(node, safe=True)
    note_layout(model, value, perm)


def movers_of(value: ir.Value) -> Iterator[ir.Node]:
    """The movers that read a value, and those that read what they make, in turn."""
    for use in value.uses():
        if passes_through(use.node, use.idx):
            yield use.node
            yield from movers_of(use.node.outputs[0])


def passes_through(node: ir.Node, index: int) -> bool:
    """Whether an input's data comes out of this node unchanged, in any order of axes."""
    return is_op(node, *MOVERS) and index == 0


def can_permute(node: ir.Node) -> bool:
    """Whether the axes that a mover names are known."""
    if is_op(node, "Concat"):
        return True
    if is_op(node, "Tile"):
        return constant(node.inputs[1]) is not None
    if is_op(node, "Slice"):
        return len(node.inputs) > 3 and constant(node.inputs[3]) is not None
    return position_of(node) is not None


def position_of(scatter: ir.Node) -> ir.Value | None:
    """The graph input that gives the place where a ScatterND of `fuse_slice_concat` writes; None for any other."""
    indices = source(scatter.inputs[1], "Concat")
    if indices is None or not (indices.outputs[0].name or "").startswith(INDICES):
        return None
    last = source(indices.inputs[-1], "Expand")
    return last.inputs[0] if last else None


def permute_mover(graph: ir.Graph, node: ir.Node, perm: tuple[int, ...], family: list[ir.Value]) -> None:
    """Has a mover work in the new order; what comes from elsewhere is permuted before it."""
    if is_op(node, "Concat"):
        axis = perm.index(node.attributes["axis"].as_int() % len(perm))
        node.attributes["axis"] = ir.AttrInt64("axis", axis)
        for index, value in enumerate(node.inputs):
            if value not in family:
                permute_input(node, index, perm)
    elif is_op(node, "Tile"):
        repeats = known(constant(node.inputs[1]))[list(perm)]
        node.replace_input_with(1, add_constant(graph, "repeats", repeats))
    elif is_op(node, "Slice"):
        axes = [perm.index(axis % len(perm)) for axis in known(constant(node.inputs[3]))]
        node.replace_input_with(3, add_constant(graph, "row_axis", np.array(axes, np.int64)))
    else:
        axis = perm.index(known(known(dims(node.inputs[1]))[-1]) - 1)
        leading = [known(known(dims(node.inputs[0]))[old]) for old in perm[:axis]]
        node.replace_input_with(1, row_indices(graph, tuple(leading), known(position_of(node))))
        permute_input(node, 2, perm)


def permute_input(node: ir.Node, index: int, perm: tuple[int, ...]) -> None:
    permute = ir.node("Transpose", [node.inputs[index]], {"perm": list(perm)})
    node.prepend(permute)
    node.replace_input_with(index, permute.outputs[0])


def note_layout(model: ir.Model, value: ir.Value, perm: tuple[int, ...]) -> None:
    """Writes down, behind what earlier passes did, how an input's axes were moved."""
    noted = json.loads(model.metadata_props.get(LAYOUTS, "{}"))
    before = noted.get(value.name, list(range(len(perm))))
    noted[value.name] = [before[axis] for axis in perm]
    model.metadata_props[LAYOUTS] = json.dumps(noted)


# --- 3. what moves nothing --------------------------------------------------------------------------------------------


def permuted(op, x, perm):
    return op.Transpose(x, perm=perm)


def keeps_memory_order(context, x: ir.Value, perm: ir.Attr) -> bool:
    """Whether a Transpose moves only axes of length 1, and a Reshape can say its shape."""
    shape = dims(x)
    return shape is not None and shape.count(None) <= 1 and moves_only_ones(shape, tuple(perm.as_ints()))


def reshaped(op, x: ir.Value, perm: ir.Attr):
    target = [-1 if (dim := known(dims(x))[axis]) is None else dim for axis in perm.as_ints()]
    return op.Reshape(x, op.initializer(ir.tensor(np.array(target, np.int64), name=f"{x.name}/order")))
