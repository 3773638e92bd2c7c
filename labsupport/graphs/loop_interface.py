"""What the caller of a loop graph (one decode step) keeps between steps, read off the graph itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labsupport.base.errors import GraphError
from labsupport.graphs.analysis import shape_of
from labsupport.graphs.passes.permutes import layouts

if TYPE_CHECKING:
    import onnx

GROWS, SHIFTS, IN_PLACE = "grows", "shifts", "in place"
FORMS = {"Concat": GROWS, "Slice": SHIFTS, "ScatterND": IN_PLACE}


@dataclass(frozen=True)
class LoopInterface:
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


def read_interface(model: onnx.ModelProto) -> LoopInterface:
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
    return LoopInterface(form, None if form == GROWS else rows, layout, moved.get("cross_k.0", plain))
