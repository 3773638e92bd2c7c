"""The cache of a loop graph in every form: filled, read, written, advanced, reordered."""

from __future__ import annotations

import numpy as np
import pytest
from small_steps import ONE_THREAD

from labsupport.base.errors import GraphError
from labsupport.graphs import passes
from labsupport.graphs.loop import Loop
from labsupport.graphs.loop_cache import LoopCache
from labsupport.graphs.loop_interface import GROWS, IN_PLACE, PLAIN, SHIFTS, LoopInterface
from labsupport.graphs.session import as_value, to_numpy

HEADS_FIRST = (0, 2, 1, 3)
INTERFACES = [
    LoopInterface(GROWS, None, PLAIN, PLAIN),
    LoopInterface(GROWS, None, HEADS_FIRST, PLAIN),
    LoopInterface(SHIFTS, 9, PLAIN, HEADS_FIRST),
    LoopInterface(SHIFTS, 9, HEADS_FIRST, HEADS_FIRST),
    LoopInterface(IN_PLACE, 9, HEADS_FIRST, HEADS_FIRST),
]


def fill(interface: LoopInterface, rows: int = 3, windows: int = 1, length: int = 4, seed: int = 0):
    """A cache of one layer, and the arrays in it."""
    random, cache = np.random.default_rng(seed), LoopCache(interface)
    sizes = {"k.0": (rows, length), "v.0": (rows, length), "cross_k.0": (windows, 6), "cross_v.0": (windows, 6)}
    arrays = {name: random.standard_normal((*size, 2, 4)).astype(np.float32) for name, size in sizes.items()}
    cache.fill({name: as_value(array) for name, array in arrays.items()})
    return cache, arrays


@pytest.mark.parametrize("interface", INTERFACES, ids=str)
def test_what_is_filled_in_is_read_back_as_a_copy(interface):
    cache, arrays = fill(interface)
    assert (cache.rows, cache.length) == (3, 4)
    stored, got = cache.self_kv["past_v.0"].numpy(), cache.read("past_v.0")
    np.testing.assert_array_equal(got, arrays["v.0"])
    sizes = (3, interface.capacity or 4, 2, 4)
    assert stored.shape == tuple(sizes[axis] for axis in interface.layout)
    assert not np.shares_memory(stored, got)
    assert not np.shares_memory(stored, arrays["v.0"])
    cross = cache.cross_kv["cross_k.0"].numpy()
    np.testing.assert_array_equal(cross, arrays["cross_k.0"].transpose(interface.cross_layout))


def test_empty_places_are_zeros():
    shifting, in_place = (to_numpy(fill(INTERFACES[number])[0].self_kv["past_k.0"]) for number in (2, 4))
    assert not shifting[:, :5].any()
    assert not in_place[:, :, 4:].any()


@pytest.mark.parametrize("interface", INTERFACES, ids=str)
def test_beams_change_places_and_windows_end(interface):
    cache, arrays = fill(interface, windows=3)
    cache.reorder_beams(np.array([2, 0, 0]))
    np.testing.assert_array_equal(cache.read("past_k.0"), arrays["k.0"][[2, 0, 0]])
    assert cache.cross_kv["cross_k.0"].shape()[0] == 3
    cache.select_rows(np.array([1]))
    np.testing.assert_array_equal(cache.read("past_k.0"), arrays["k.0"][[0]])
    expected = arrays["cross_k.0"][[1]].transpose(interface.cross_layout)
    np.testing.assert_array_equal(cache.cross_kv["cross_k.0"].numpy(), expected)


def test_texts_of_one_window_share_its_cross_attention():
    cache, arrays = fill(INTERFACES[0], rows=1)
    cache.select_rows(np.zeros(5, int))
    assert (cache.rows, cache.cross_kv["cross_k.0"].shape()[0]) == (5, 1)
    cache, arrays = fill(INTERFACES[0], rows=2, windows=2)
    cache.select_rows(np.array([1, 1, 1]))
    np.testing.assert_array_equal(cache.cross_kv["cross_k.0"].numpy(), arrays["cross_k.0"][[1]])


def test_a_row_is_written_into_the_bound_buffer_itself(small):
    model, cross_kv, past, _ = small
    loop = Loop(passes.run_all(model), cross_kv, past, **ONE_THREAD)
    value = loop.cache.self_kv["past_k.1"]
    before = value.numpy().copy()
    loop.decode_step(np.full(3, 1))
    changed = np.argwhere((value.numpy() != before).any((0, 1, 3))).ravel()
    assert changed.tolist() == [4]
    assert loop.cache.self_kv["past_k.1"] is value


def test_a_cache_holds_the_memory_of_its_inputs(small):
    model, cross_kv, past, expected = small
    loop = Loop(passes.eliminate_permutes(model), cross_kv, past, **ONE_THREAD)
    litter = [np.full(array.shape, np.nan, np.float32) for array in cross_kv.values() for _ in range(50)]
    np.testing.assert_allclose(loop.decode_step(np.full(3, 1)), expected["logits 0"], atol=1e-5)
    assert len(litter) == 50 * len(cross_kv)


def test_a_full_cache_takes_no_token(small):
    model, cross_kv, past, _ = small
    loop = Loop(passes.cache_to_static(model, capacity=4), cross_kv, past, **ONE_THREAD)
    with pytest.raises(GraphError, match="no room in caches of 4"):
        loop.run(np.full(3, 1))
    with pytest.raises(GraphError, match="do not fit into caches of 3"):
        Loop(passes.cache_to_static(model, capacity=3), cross_kv, past, **ONE_THREAD)
