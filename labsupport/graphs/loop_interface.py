"""What the caller of a loop graph (one decode step) keeps between steps, read off the graph itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labsupport.base.errors import GraphError
from labsupport.graphs.analysis import shape_of

if TYPE_CHECKING:
    import onnx

GROWS, SHIFTS, IN_PLACE = "grows", "shifts", "in place"
READERS = {"Concat": GROWS, "Slice": SHIFTS, "ScatterND": IN_PLACE}  # the op that reads past_k.i
PLAIN = (0, 1, 2, 3)  # batch, length, heads, head_dim
LAYOUTS = "lab.layouts"  # the model's metadata: how `eliminate_permutes` has moved the axes of its inputs


@dataclass(frozen=True)
class LoopInterface:
    """What the caller of a loop graph hands over and takes back at each step.

    cache: "grows" (past_k.i has a place for each token, k.i one more), "shifts" (`capacity` places, the newest token
    last, the empty places first), or "in place" (`capacity` places, token p in place p; bind past_k.i and k.i to one
    buffer, and nothing is copied). Empty places must be finite: zeros.
    layout: axes of the self-attention's caches; cross_layout: of the cross-attention's. (0, 1, 2, 3) is (batch,
    length, heads, head_dim); (0, 2, 1, 3) is (batch, heads, length, head_dim).
    """

    cache: str
    capacity: int | None
    layout: tuple[int, ...]
    cross_layout: tuple[int, ...]


def read_interface(model: onnx.ModelProto) -> LoopInterface:
    """What a loop graph asks of its caller: read off the graph, whichever passes it has been through.

    Raises:
        GraphError: the graph has no input `past_k.0`, or nothing known is done with it.
    """
    past = next((value for value in model.graph.input if value.name == "past_k.0"), None)
    readers = [node.op_type for node in model.graph.node if "past_k.0" in node.input]
    if past is None or len(readers) != 1 or readers[0] not in READERS:
        raise GraphError("This is no loop graph: nothing is appended to an input past_k.0.", where=model.graph.name)
    moved = read_layouts(model)
    layout, form = moved.get("past_k.0", PLAIN), READERS[readers[0]]
    length = shape_of(past)[layout.index(1)]
    capacity = length if isinstance(length, int) and form != GROWS else None
    return LoopInterface(form, capacity, layout, moved.get("cross_k.0", PLAIN))


def read_layouts(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Input name -> where each of its axes comes from, for the inputs that a pass has permuted.

    `array.transpose(read_layouts(model)[name])` turns what the first form takes into what this one takes; the output
    that belongs to a cache (`k.0` to `past_k.0`) has the same order as its input.
    """
    noted = {prop.key: prop.value for prop in model.metadata_props}
    return {name: tuple(perm) for name, perm in json.loads(noted.get(LAYOUTS, "{}")).items()}
