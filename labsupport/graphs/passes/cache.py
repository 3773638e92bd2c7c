"""The cache inside a graph: from one that grows by Concat, to one of fixed size, to one written in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from labsupport.graphs.passes.rewriting import Dims, add_constant, constant, dims, is_op, known, rewriting, source

CAPACITY = 448  # the longest text that Whisper's decoder has positions for
HIDDEN = -1e4  # added to a score, it makes exp() 0 in half precision, too, and is no infinity there
POSITION = "position"
INDICES = "indices_"  # how the names of what `row_indices` makes begin
SHAPE_OPS = ("Identity", "Reshape", "Transpose")
SCORE_OPS = ("Add", "Div", "Mul")


@dataclass(frozen=True)
class GraphCache:
    """A cache in the graph: `past` (an input) and the `new` row are put together by `join` along `axis`."""

    past: ir.Value
    new: ir.Value
    join: ir.Node
    axis: int

    @property
    def present(self) -> ir.Value:
        return self.join.outputs[0]

    def length(self, value: ir.Value) -> int | None:
        """How many rows the past or the present has; None if that is not fixed."""
        return known(dims(value))[self.axis]


# --- the two passes --------------------------------------------------------------------------------------------------


@rewriting
def cache_to_static(model: ir.Model, capacity: int | None = None) -> bool:
    """Gives growing caches a fixed size: the oldest row is sliced off, the new one concatenated (article B's form).

    Matches graph inputs that a Concat lengthens by one row to a graph output, if every use of the row axis is a
    softmax's (keys) or a product with one (values); then a mask from the input `position` hides the rows that are
    still empty. Afterwards inputs and outputs have `capacity` rows, the newest last, the empty ones first. All caches
    match, or none is touched. By default `capacity` is what a past of fixed shape has, else 448.
    """
    caches = list(find_growing(model.graph))
    position = next((value for value in model.graph.inputs if value.name == POSITION), None)
    softmaxes = find_softmaxes(caches)
    if position is None or not softmaxes:
        return False
    lengths = {cache.length(cache.past) for cache in caches}  # None: not fixed
    capacity = capacity or (lengths.pop() if len(lengths) == 1 else None) or CAPACITY
    mask = add_mask(model.graph, capacity, position)
    for softmax in softmaxes:
        hide_rows(softmax, mask)
    for cache in caches:
        shift_rows(model.graph, cache, capacity)
    return True


@rewriting
def fuse_slice_concat(model: ir.Model) -> bool:
    """Writes the new row where it belongs, at `position`, instead of moving all rows by one place.

    Matches the caches that `cache_to_static` makes, with its mask and nothing else that depends on the rows' order.
    Afterwards a ScatterND writes the row, and rows stand in the order of their positions, the empty ones last. ONNX
    Runtime copies nothing if `past_k.0` and `k.0` are bound to one buffer; without that it copies the cache once.
    """
    caches, masks = list(find_shifting(model.graph)), find_masks(model.graph)
    softmaxes = find_softmaxes(caches, frozenset(masks))
    added = {mask_of(softmax, masks) for softmax in softmaxes}
    mask = added.pop() if len(added) == 1 else None
    if mask is None or {use.node.outputs[0] for use in mask.uses()} != {softmax.inputs[0] for softmax in softmaxes}:
        return False  # something else reads the mask, in the old order of the rows
    capacity, position = masks[mask]
    if any(cache.length(cache.present) != capacity for cache in caches):
        return False
    show_rows_up_to(mask, position)
    for cache in caches:
        write_row(model.graph, cache, position)
    return True


# --- finding caches --------------------------------------------------------------------------------------------------


def find_growing(graph: ir.Graph) -> Iterator[GraphCache]:
    """Concats of a graph input with one new row, whose result is a graph output."""
    for node in graph:
        cache = as_cache(node)
        if cache and cache.past in graph.inputs and len(cache.past.uses()) == 1:
            yield cache


def find_shifting(graph: ir.Graph) -> Iterator[GraphCache]:
    """Concats of a graph input, without its first row, with one new row; whole shapes known."""
    for node in graph:
        cache = as_cache(node)
        slicing = source(cache.past, "Slice") if cache else None
        if cache is None or slicing is None or not drops_first_row(slicing, cache.axis):
            continue
        past, sliced = known(slicing.inputs[0]), slicing.outputs[0]
        fixed = None not in (dims(past) or [None])
        if fixed and past in graph.inputs and len(past.uses()) == len(sliced.uses()) == 1:
            yield GraphCache(past, cache.new, node, cache.axis)


def as_cache(node: ir.Node) -> GraphCache | None:
    """A Concat of two, the second one row long, whose result is a graph output."""
    if not is_op(node, "Concat") or len(node.inputs) != 2 or not node.outputs[0].is_graph_output():
        return None
    past, new = (known(value) for value in node.inputs)
    shape = dims(new)
    if shape is None or past is new:
        return None
    axis = node.attributes["axis"].as_int() % len(shape)
    return GraphCache(past, new, node, axis) if shape[axis] == 1 else None


def drops_first_row(slicing: ir.Node, axis: int) -> bool:
    """Whether a Slice takes all but the first row of this axis alone."""
    shape = dims(slicing.inputs[0])
    if len(slicing.inputs) < 4 or shape is None or (length := shape[axis]) is None:
        return False
    bounds = [constant(value) for value in slicing.inputs[1:]]
    if any(bound is None or bound.shape != (1,) for bound in bounds):
        return False
    start, end, sliced, *step = (int(known(bound)[0]) for bound in bounds)
    return start == 1 and end >= length and sliced % len(shape) == axis and step in ([], [1])


# --- the rows' readers -----------------------------------------------------------------------------------------------

Read = tuple[ir.Node, ir.Node | None]  # a softmax, and the product with values; None: the softmax of these scores


def find_softmaxes(caches: list[GraphCache], masks: frozenset[ir.Value] = frozenset()) -> list[ir.Node]:
    """The softmaxes over the rows of these caches; none if the rows' order or number reaches anything else.

    For each of them: its scores come from a cache of keys, and every product that reads it is one with a cache of
    values.
    """
    found = [list(trace_rows(cache.present, cache.axis, masks)) for cache in caches]
    reads = [read for reads in found for read in reads if read is not None]
    if len(reads) < sum(map(len, found)) or not all(found):
        return []
    keys = {softmax for softmax, product in reads if product is None}
    products = {softmax: {product for s, product in reads if s is softmax and product} for softmax, _ in reads}
    closed = all(softmax in keys and products_of(softmax) == traced for softmax, traced in products.items())
    return sorted(keys, key=lambda softmax: softmax.name or "") if closed else []


def trace_rows(value: ir.Value, axis: int, masks: frozenset[ir.Value]) -> Iterator[Read | None]:
    """Where the rows on `axis` end up: (softmax, None) over scores, (softmax, MatMul) of values, None elsewhere."""
    for use in value.uses():
        node, shape = use.node, dims(use.node.inputs[use.idx])
        if shape is None or dims(node.outputs[0]) is None:
            yield None
        elif is_op(node, "Softmax"):
            last = node.attributes.get_int("axis", -1) % len(shape) == len(shape) - 1
            yield (node, None) if last and axis == len(shape) - 1 else None
        elif is_op(node, "MatMul") and axis == len(shape) - (1 if use.idx == 0 else 2):
            softmax = softmax_behind(node.inputs[1 - use.idx], -2 if use.idx == 0 else -1)
            yield (softmax, node) if softmax else None
        elif node.outputs[0].is_graph_output() or (onward := next_axis(node, use.idx, axis, masks)) is None:
            yield None
        else:
            yield from trace_rows(node.outputs[0], onward, masks)


def next_axis(node: ir.Node, index: int, axis: int, masks: frozenset[ir.Value]) -> int | None:
    """Where an axis of an input, not summed over, is in the output; None for an op that depends on the rows' order."""
    before, after = known(dims(node.inputs[index])), known(dims(node.outputs[0]))
    if is_op(node, "Identity"):
        return axis
    if is_op(node, "Transpose"):
        return node.attributes["perm"].as_ints().index(axis)
    if is_op(node, "Reshape"):
        return axis_through_reshape(before, after, axis) if index == 0 else None
    if is_op(node, "MatMul"):
        return axis + len(after) - len(before)
    if is_op(node, *SCORE_OPS):
        other, onward = node.inputs[1 - index], axis + len(after) - len(before)
        return onward if other in masks or same_for_all_rows(other, len(after) - onward) else None
    return None


def axis_through_reshape(before: Dims, after: Dims, axis: int) -> int | None:
    """Where an axis longer than 1 is after a change of shape that moves only axes of length 1; else None."""
    old, new = ([axis for axis, dim in enumerate(shape) if dim != 1] for shape in (before, after))
    if [before[a] for a in old] != [after[a] for a in new] or axis not in old:
        return None
    return new[old.index(axis)]


def same_for_all_rows(value: ir.Value | None, from_the_end: int) -> bool:
    """Whether an operand has length 1, or nothing, on the axis that far from the end."""
    shape = dims(value)
    return shape is not None and (len(shape) < from_the_end or shape[-from_the_end] == 1)


def softmax_behind(value: ir.Value | None, axis: int) -> ir.Node | None:
    """The softmax over this axis that the value comes from, through changes of shape alone."""
    shape = dims(value)
    if value is None or shape is None:
        return None
    node, axis = value.producer(), axis % len(shape)
    if is_op(node, "Softmax"):
        last = len(shape) - 1
        return node if axis == last == node.attributes.get_int("axis", -1) % len(shape) else None
    if is_op(node, "Identity"):
        return softmax_behind(node.inputs[0], axis)
    if is_op(node, "Transpose"):
        return softmax_behind(node.inputs[0], node.attributes["perm"].as_ints()[axis])
    if is_op(node, "Reshape") and (before := dims(node.inputs[0])):
        back = axis_through_reshape(shape, before, axis)
        return None if back is None else softmax_behind(node.inputs[0], back)
    return None


def products_of(softmax: ir.Node) -> set[ir.Node | None]:
    """The MatMuls that read a softmax, through changes of shape; None among them for any other reader."""
    found: set[ir.Node | None] = set()
    values = [softmax.outputs[0]]
    while values:
        value = values.pop()
        if value.is_graph_output():
            found.add(None)
        for node in value.consumers():
            if is_op(node, *SHAPE_OPS):
                values.append(node.outputs[0])
            else:
                found.add(node if is_op(node, "MatMul") else None)
    return found


# --- the mask --------------------------------------------------------------------------------------------------------


def add_mask(graph: ir.Graph, capacity: int, position: ir.Value) -> ir.Value:
    """(capacity,) float32: 0 for the last `position` + 1 rows, `HIDDEN` for those before them, still empty."""
    rows = add_constant(graph, "cache_rows", np.arange(capacity, dtype=np.int64))
    last = add_constant(graph, "cache_last_row", np.array([capacity - 1], np.int64))
    shown = add_constant(graph, "row_shown", np.array(0, np.float32))
    hidden = add_constant(graph, "row_hidden", np.array(HIDDEN, np.float32))
    oldest = ir.node("Sub", [last, position])
    visible = ir.node("GreaterOrEqual", [rows, oldest.outputs[0]])
    mask = ir.node("Where", [visible.outputs[0], shown, hidden])
    graph.insert_before(graph[0], [oldest, visible, mask])
    return mask.outputs[0]


def hide_rows(softmax: ir.Node, mask: ir.Value) -> None:
    """Adds the mask to a softmax's scores."""
    masked = ir.node("Add", [softmax.inputs[0], mask])
    softmax.prepend(masked)
    softmax.replace_input_with(0, masked.outputs[0])


def find_masks(graph: ir.Graph) -> dict[ir.Value, tuple[int, ir.Value]]:
    """The masks that `add_mask` made: each with its capacity, and the graph input that it depends on."""
    return {node.outputs[0]: read for node in graph if is_op(node, "Where") and (read := read_mask(node))}


def read_mask(where: ir.Node) -> tuple[int, ir.Value] | None:
    """The capacity and the graph input of one mask; None for any other Where."""
    visible, shown, hidden = source(where.inputs[0], "GreaterOrEqual"), *map(constant, where.inputs[1:])
    oldest = source(visible.inputs[1], "Sub") if visible else None
    if visible is None or oldest is None or shown is None or hidden is None:
        return None
    rows, last, position = constant(visible.inputs[0]), constant(oldest.inputs[0]), oldest.inputs[1]
    if rows is None or last is None or position is None or not position.is_graph_input():
        return None
    counts = np.array_equal(rows, np.arange(len(rows))) and np.array_equal(last, [len(rows) - 1])
    plain = np.array_equal(shown, 0) and np.size(hidden) == 1 and np.all(hidden <= HIDDEN)
    return (len(rows), position) if counts and plain and len(visible.outputs[0].uses()) == 1 else None


def mask_of(softmax: ir.Node, masks: dict[ir.Value, tuple[int, ir.Value]]) -> ir.Value | None:
    """The mask that is added to this softmax's scores."""
    add = source(softmax.inputs[0], "Add")
    return next((value for value in add.inputs if value in masks), None) if add else None


def show_rows_up_to(mask: ir.Value, position: ir.Value) -> None:
    """Turns the mask of a cache with its newest row last into that of one whose row 0 is position 0."""
    where = known(mask.producer())
    rows = known(known(where.inputs[0]).producer()).inputs[0]
    visible = ir.node("LessOrEqual", [rows, position])
    where.prepend(visible)
    where.replace_input_with(0, visible.outputs[0])


# --- the rows --------------------------------------------------------------------------------------------------------


def shift_rows(graph: ir.Graph, cache: GraphCache, capacity: int) -> None:
    """Has the Concat take all but the oldest row of a past of fixed size."""
    for value in (cache.past, cache.present):
        value.shape = ir.Shape([capacity if axis == cache.axis else dim for axis, dim in enumerate(known(value.shape))])
    bounds = [
        add_constant(graph, name, np.array([number], np.int64))
        for name, number in (("second_row", 1), ("no_end", np.iinfo(np.int64).max), ("row_axis", cache.axis))
    ]
    rest = ir.node("Slice", [cache.past, *bounds])
    cache.join.prepend(rest)
    cache.join.replace_input_with(list(cache.join.inputs).index(cache.past), rest.outputs[0])


def write_row(graph: ir.Graph, cache: GraphCache, position: ir.Value) -> None:
    """Puts a ScatterND that writes the new row in the place of Slice and Concat."""
    leading = tuple(map(known, known(dims(cache.past))[: cache.axis]))
    indices, present = row_indices(graph, leading, position), cache.present
    write = ir.node("ScatterND", [cache.past, indices, cache.new], outputs=[ir.Value(name=f"{present.name}.written")])
    cache.join.append(write)
    replace_output(graph, present, write.outputs[0])


def replace_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Gives a graph output's name, type, place and readers to another value, and removes the old one's node."""
    name, node = old.name, known(old.producer())
    new.shape, new.type = old.shape, old.type
    for number, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[number] = new
    old.replace_all_uses_with(new)
    old.name, new.name = f"{name}.before", name
    graph.remove(node, safe=True)


def row_indices(graph: ir.Graph, leading: tuple[int, ...], position: ir.Value) -> ir.Value:
    """int64 (*leading, 1, len(leading) + 1): for ScatterND, the row `position` behind every leading index.

    The graph has one such value for each `leading`, whichever cache asks.
    """
    name = INDICES + "x".join(map(str, leading))
    if there := next((value for node in graph for value in node.outputs if value.name == name), None):
        return there
    grid = np.stack(np.meshgrid(*map(np.arange, leading), indexing="ij"), -1) if leading else np.zeros(0)
    before = add_constant(graph, f"{name}.before", grid.reshape(*leading, 1, len(leading)).astype(np.int64))
    shape = add_constant(graph, f"{name}.shape", np.array([*leading, 1, 1], np.int64))
    last = ir.node("Expand", [position, shape])
    indices = ir.node("Concat", [before, last.outputs[0]], {"axis": -1}, outputs=[ir.Value(name=name)])
    graph.insert_before(graph[0], [last, indices])
    return indices.outputs[0]
