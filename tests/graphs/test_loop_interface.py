"""What a loop graph asks of its caller, read off the graph after any pass."""

from __future__ import annotations

import pytest
from small_graphs import product
from small_steps import SMALL, RandomCheckpoint

from labsupport.base.errors import GraphError
from labsupport.graphs import analysis, passes, whisper_graphs
from labsupport.graphs.loop_interface import PLAIN, LoopInterface, read_interface
from labsupport.graphs.passes import cache

HEADS_FIRST = (0, 2, 1, 3)


def test_each_form_is_read_off_its_graph(small):
    assert read_interface(small[0]) == LoopInterface("grows", None, PLAIN, PLAIN)
    static = passes.cache_to_static(small[0], capacity=9)
    assert read_interface(static) == LoopInterface("shifts", 9, PLAIN, PLAIN)
    last = passes.fuse_slice_concat(passes.eliminate_permutes(static))
    assert read_interface(last) == LoopInterface("in place", 9, HEADS_FIRST, HEADS_FIRST)


def test_a_past_of_fixed_length_gives_the_capacity(small):
    fixed = whisper_graphs.decoder_step(RandomCheckpoint(SMALL, 0), 3, capacity=7)
    assert read_interface(passes.cache_to_static(fixed)).capacity == 7
    assert read_interface(passes.cache_to_static(small[0])).capacity == cache.CAPACITY
    shapes = analysis.shapes_of(passes.run_all(fixed))
    assert all(isinstance(dim, int) for shape in shapes.values() for dim in shape)


def test_a_graph_that_is_no_loop_has_no_interface():
    with pytest.raises(GraphError, match="no loop graph"):
        read_interface(product())
