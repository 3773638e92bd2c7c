"""Article B's four graph rewrites, each a function ONNX model -> ONNX model that leaves its argument as it is.

    model = onnx_graphs.decoder_step(checkpoint)
    fast = run_all(model)                                  # all four
    half = run_all(model, ["tile_to_broadcast"])           # or one
    after = interface(fast)                                # how its caches are to be kept now

Names of inputs and outputs stay. What changes is what the caller owns: `interface` says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .graph_cache import CAPACITY, cache_to_static, fuse_slice_concat
from .graph_permutes import eliminate_permutes, layouts
from .graph_tile import tile_to_broadcast
from .graph_tools import GraphError, bytes_by_op, bytes_moved, check, op_counts, shape_of, shapes_of

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CAPACITY",
    "GROWS",
    "IN_PLACE",
    "PASSES",
    "SHIFTS",
    "GraphError",
    "Interface",
    "bytes_by_op",
    "bytes_moved",
    "cache_to_static",
    "check",
    "eliminate_permutes",
    "fuse_slice_concat",
    "interface",
    "layouts",
    "op_counts",
    "run_all",
    "shape_of",
    "shapes_of",
    "tile_to_broadcast",
]

# In the article's order. Every order gives the same numbers, but fuse_slice_concat finds nothing to fuse before
# cache_to_static has made a Slice.
PASSES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "tile_to_broadcast": tile_to_broadcast,
    "cache_to_static": cache_to_static,
    "eliminate_permutes": eliminate_permutes,
    "fuse_slice_concat": fuse_slice_concat,
}
GROWS, SHIFTS, IN_PLACE = "grows", "shifts", "in place"
FORMS = {"Concat": GROWS, "Slice": SHIFTS, "ScatterND": IN_PLACE}


@dataclass(frozen=True)
class Interface:
    """What the caller of a loop graph keeps between steps.

    cache: "grows" (past_k.i has as many rows as there are tokens, k.i one more), "shifts" (`capacity` rows, the newest
    last, the empty ones first), or "in place" (`capacity` rows, row p is position p; bind past_k.i and k.i to one
    buffer, and nothing is copied). Empty rows must be finite: zeros.
    layout: axes of the self-attention's caches; cross_layout: of the cross-attention's. (0, 1, 2, 3) is (batch,
    length, heads, head_dim); (0, 2, 1, 3) is (batch, heads, length, head_dim).
    """

    cache: str
    capacity: int | None
    layout: tuple[int, ...]
    cross_layout: tuple[int, ...]


def run_all(model: onnx.ModelProto, passes: Iterable[str] = PASSES) -> onnx.ModelProto:
    """The model after these passes, one after the other.

    Raises:
        GraphError: there is no such pass, or a rewritten graph contradicts itself.
    """
    for name in passes:
        if name not in PASSES:
            raise GraphError(f"There is no pass {name!r}.", hint=f"There are {', '.join(PASSES)}.")
        model = PASSES[name](model)
    return model


def interface(model: onnx.ModelProto) -> Interface:
    """How the caches of a loop graph are kept: read off the graph, whichever passes it has seen.

    Raises:
        GraphError: the graph has no input `past_k.0`, or nothing known is done with it.
    """
    past = next((value for value in model.graph.input if value.name == "past_k.0"), None)
    readers = [node.op_type for node in model.graph.node if "past_k.0" in node.input]
    if past is None or len(readers) != 1 or readers[0] not in FORMS:
        raise GraphError("This is no loop graph: nothing is appended to an input past_k.0.", where=model.graph.name)
    moved, plain = layouts(model), tuple(range(4))
    layout = moved.get("past_k.0", plain)
    rows = shape_of(past)[layout.index(1)]
    form = FORMS[readers[0]]
    return Interface(form, None if form == GROWS else rows, layout, moved.get("cross_k.0", plain))
