"""Tile -> broadcast: a MatMul repeats an operand by itself, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from labsupport.graphs.passes.rewriting import Dims, constant, dims, is_op, known, rewriting


def may_broadcast(shape: Dims, repeats: Sequence[int], other: Dims) -> bool:
    """Whether a MatMul gives the same with an operand as it was before its Tile: it broadcasts the repeated axes.

    Args:
        shape: before the Tile; repeats: for each axis; other: the other operand's. All have equally many axes.
    """
    repeated = [axis for axis, times in enumerate(repeats) if times != 1]
    batch_axes = range(len(shape) - 2)
    return all(axis in batch_axes and shape[axis] == 1 and other[axis] == repeats[axis] for axis in repeated)


@rewriting
def tile_to_broadcast(model: ir.Model, may_go: Callable = may_broadcast) -> bool:
    """Takes out every Tile that only copies for a MatMul what the MatMul would broadcast.

    It goes if everything that reads it is a MatMul, or a Transpose before one, for which `may_go` holds: it repeats
    axes of length 1, they are batch axes there, and the other operand has the full length. Article B:
    5x1x8x64 @ 1x1500x8x64.
    """
    removed = False
    for tile in [node for node in model.graph if is_op(node, "Tile")]:
        copied, tiled = known(tile.inputs[0]), tile.outputs[0]
        shape, repeats = dims(copied), constant(tile.inputs[1])
        if shape is None or repeats is None or tiled.is_graph_output():
            continue
        if broadcasts(tiled, shape, repeats.tolist(), may_go):
            write_shape(tiled, shape)
            tiled.replace_all_uses_with(copied)
            removed = True
    return removed


def broadcasts(value: ir.Value, shape: Dims, repeats: list[int], may_go: Callable) -> bool:
    """Whether all that read the value would give the same if it had this shape, as before its Tile."""
    readers = [(use.node, use.idx) for use in value.uses()]
    return bool(readers) and all(reads_by_broadcast(*reader, shape, repeats, may_go) for reader in readers)


def reads_by_broadcast(node: ir.Node, index: int, shape: Dims, repeats: list[int], may_go: Callable) -> bool:
    if is_op(node, "Transpose") and not node.outputs[0].is_graph_output():
        perm = node.attributes["perm"].as_ints()
        permuted = [shape[axis] for axis in perm], [repeats[axis] for axis in perm]
        return broadcasts(node.outputs[0], *permuted, may_go)
    if not is_op(node, "MatMul") or node.inputs[0] is node.inputs[1]:
        return False
    other = dims(node.inputs[1 - index])
    return other is not None and len(other) == len(shape) and bool(may_go(shape, repeats, other))


def write_shape(value: ir.Value, shape: Dims) -> None:
    """Writes the shape before the Tile to the value and to its permutes, for the Tiles that come next."""
    value.shape = ir.Shape(shape)
    for node in value.consumers():
        if is_op(node, "Transpose"):
            write_shape(node.outputs[0], [shape[axis] for axis in node.attributes["perm"].as_ints()])
