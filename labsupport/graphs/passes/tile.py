"""Tile -> broadcast: a MatMul repeats an operand by itself, without a copy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from labsupport.graphs.passes.rewriting import constant, dims, is_op, known, rewriting


@rewriting
def tile_to_broadcast(model: ir.Model) -> bool:
    """Takes out every Tile that only copies for a MatMul what the MatMul would broadcast.

    It goes if it repeats axes of length 1, everything that reads it is a MatMul (or a Transpose before one), these
    axes are batch axes there, and the other operand has the full length. Article B: 5x1x8x64 @ 1x1500x8x64.
    """
    removed = False
    for tile in [node for node in model.graph if is_op(node, "Tile")]:
        copied, tiled = known(tile.inputs[0]), tile.outputs[0]
        lengths = repeated_axes(tile)
        if lengths and not tiled.is_graph_output() and broadcasts(tiled, lengths):
            shrink(tiled, lengths)
            tiled.replace_all_uses_with(copied)
            removed = True
    return removed


def repeated_axes(tile: ir.Node) -> dict[int, int]:
    """Axis -> its new length, of the axes of length 1 that a Tile repeats; empty if it repeats any longer one."""
    repeats, before = constant(tile.inputs[1]), dims(tile.inputs[0])
    if repeats is None or before is None:
        return {}
    axes = [int(axis) for axis in np.flatnonzero(repeats != 1)]
    return {axis: int(repeats[axis]) for axis in axes} if all(before[axis] == 1 for axis in axes) else {}


def broadcasts(value: ir.Value, lengths: dict[int, int]) -> bool:
    """Whether all that read the value would give the same if these axes had length 1."""
    return bool(value.uses()) and all(reads_by_broadcast(use.node, use.idx, lengths) for use in value.uses())


def reads_by_broadcast(node: ir.Node, index: int, lengths: dict[int, int]) -> bool:
    if is_op(node, "Transpose") and not node.outputs[0].is_graph_output():
        perm = node.attributes["perm"].as_ints()
        return broadcasts(node.outputs[0], {perm.index(axis): length for axis, length in lengths.items()})
    if not is_op(node, "MatMul") or node.inputs[0] is node.inputs[1]:
        return False
    shape, other = dims(node.inputs[index]), dims(node.inputs[1 - index])
    if shape is None or other is None or len(shape) != len(other):
        return False
    return all(axis < len(shape) - 2 and other[axis] == length for axis, length in lengths.items())


def shrink(value: ir.Value, lengths: dict[int, int]) -> None:
    """Writes length 1 into the shapes of the value and of its permutes, for the Tiles that come next."""
    value.shape = ir.Shape([1 if axis in lengths else dim for axis, dim in enumerate(known(dims(value)))])
    for use in value.uses():
        if is_op(use.node, "Transpose"):
            perm = use.node.attributes["perm"].as_ints()
            shrink(use.node.outputs[0], {perm.index(axis): length for axis, length in lengths.items()})
