"""A picture of a part of a graph: which nodes it shows, where, and what its alt text lists."""

from __future__ import annotations

import re

from labsupport.base import plots
from labsupport.graphs import passes
from labsupport.graphs.picture import assign_levels, draw_neighbourhood, neighbourhood, spread

ATTENTION = "decoder.layers.0.encoder_attn"
STARTS, END = [f"{ATTENTION}.q_proj/Mul"], f"{ATTENTION}.out_proj/MatMul"


def test_the_nodes_between_two_places_are_found_in_order(small):
    ops = [node.op_type for node in neighbourhood(small[0], STARTS, END)]
    assert ops == ["Tile", "Tile", "Reshape", *["Transpose"] * 3, "MatMul", "Softmax", "MatMul", "Transpose", "Reshape"]


def test_boxes_stand_below_what_they_read_and_apart(small):
    nodes = neighbourhood(small[0], STARTS, END)
    levels = assign_levels(nodes, {"cross_k.0", "cross_v.0", *STARTS})
    centres = spread(levels, nodes)
    for node in nodes:
        assert all(centres[name][1] > centres[node.output[0]][1] for name in node.input if name in centres)
    assert len({(round(x, 3), y) for x, y in centres.values()}) == len(centres)


def test_a_panel_for_each_form_and_an_alt_text_with_shapes(small):
    forms = {"first": small[0], "broadcast": passes.tile_to_broadcast(small[0])}
    drawn, alt = draw_neighbourhood(forms, STARTS, END, past=4)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["first", "broadcast"]
    first, broadcast = re.findall(r"(?:first|broadcast): [^;]*", alt)
    assert "Tile 3x6x2x4" in first
    assert "Tile" not in broadcast
    assert plots.to_png(drawn)[:4] == b"\x89PNG"
