"""The three caches against a plain list of tokens in NumPy, and against each other in a whole model."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import PROMPT, RULES, WithCache, draw, encoder_out, small_model, start_cache

from labsupport.arrays import xp
from labsupport.base.errors import OptimError
from labsupport.optim import kv_cache
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache
from labsupport.whisper.search import beam_search, greedy

pytestmark = pytest.mark.both_backends

CACHES = [DynamicCache, PaddedCache, StaticCache]
EXAMPLES = 60 if xp.name == "torch" else 10
LAYERS, HEADS, DIM, CAPACITY = 2, 2, 3, 12


# --- one cache against a list -----------------------------------------------------------------------------------------


class ListedCache:
    """What a cache must hold, as plain arrays: self_kv (layers, 2, rows, heads, length, dim), and each row's window."""

    def __init__(self, rows: int):
        self.self_kv, self.windows = np.zeros((LAYERS, 2, rows, HEADS, 0, DIM), np.float32), np.arange(rows)

    def append(self, new: np.ndarray) -> None:
        self.self_kv = np.concatenate([self.self_kv, new], axis=4)

    def select_rows(self, rows: np.ndarray) -> None:
        self.self_kv, self.windows = self.self_kv[:, :, rows], self.windows[rows]


def begin(cache, rows: int, rng) -> np.ndarray:
    """Gives the cache windows; returns their cross-attention's keys and values."""
    cross_kv = draw(rng, LAYERS, 2, rows, HEADS, 4, DIM)
    copies = cross_kv.copy()  # torch would share the array's memory, and a static cache moves windows in place
    cache.set_cross_kv([(xp.asarray(k), xp.asarray(v)) for k, v in copies])
    return cross_kv


def take_step(cache, new: np.ndarray, empty: bool) -> tuple[np.ndarray, np.ndarray]:
    """Appends; returns all that the layers give to attend to, and the mask of who attends to what."""
    tokens = new.shape[4]
    cache.check_step(cache.rows, tokens, CAPACITY)
    all_rows = cache.buffer_rows > cache.rows and empty
    extra = cache.buffer_rows - cache.rows if all_rows else 0
    padded = np.pad(new, [(0, 0), (0, 0), (0, extra), (0, 0), (0, 0), (0, 0)])
    position = xp.asarray(np.arange(cache.length, cache.length + tokens))
    past = cache.past_kv(tokens, all_rows, all_places=empty)
    self_kv = [
        cache.append(before, (xp.asarray(k), xp.asarray(v)), position)
        for before, (k, v) in zip(past, padded, strict=True)
    ]
    mask = cache.mask(position, empty)
    cache.update(self_kv, tokens)
    held = np.array([[xp.to_numpy(tensor)[: cache.rows] for tensor in pair] for pair in self_kv])
    if mask is None:  # all are there, the newest last: the causal rule
        length = held.shape[4]
        return held, np.arange(length)[None] <= np.arange(length - tokens, length)[:, None]
    return held, xp.to_numpy(mask)


def check_step(cache, listed: ListedCache, new: np.ndarray, empty: bool) -> None:
    """Query i of the step must attend to the tokens of its text up to itself, in their order, and to nothing else."""
    held, mask = take_step(cache, new, empty)
    listed.append(new)
    tokens = new.shape[4]
    for query in range(tokens):
        visible = held[..., mask[query], :]
        expected = listed.self_kv[..., : cache.length - tokens + query + 1, :]
        assert visible.shape == expected.shape
        assert np.array_equal(visible, expected)


def check_cross(cache, listed: ListedCache, cross_kv: np.ndarray) -> None:
    """Every text must attend to its own window."""
    held = np.array([[xp.to_numpy(tensor) for tensor in pair] for pair in cache.active_cross_kv()])
    each = cache.rows // held.shape[2]
    assert np.array_equal(np.repeat(held, each, axis=2), cross_kv[:, :, listed.windows])


moves = st.lists(
    st.tuples(st.sampled_from(["append", "append", "reorder", "select"]), st.integers(0, 2**16)), max_size=7
)


def run_moves(kind, rows: int, drawn, empty: bool) -> None:
    rng = np.random.default_rng(rows)
    cache, listed = kind(capacity=CAPACITY), ListedCache(rows)
    cross_kv = begin(cache, rows, rng)
    check_step(cache, listed, draw(rng, LAYERS, 2, rows, HEADS, 2, DIM), empty)
    for move, seed in drawn:
        rng = np.random.default_rng(seed)
        if move == "append" and cache.length < CAPACITY:
            tokens = rng.integers(1, min(3, CAPACITY - cache.length) + 1)
            check_step(cache, listed, draw(rng, LAYERS, 2, cache.rows, HEADS, tokens, DIM), empty)
        elif move == "reorder":
            each = cache.rows // cache.active_cross_kv()[0][0].shape[0]
            chosen = np.arange(cache.rows) // each * each + rng.integers(0, each, cache.rows)  # within the window
            cache.reorder_beams(chosen)
            listed.select_rows(chosen)
        elif move == "select":
            chosen = draw_rows(rng, cache.rows)
            cache.select_rows(chosen)
            listed.select_rows(chosen)
        check_cross(cache, listed, cross_kv)
    if cache.length < CAPACITY:
        check_step(cache, listed, draw(rng, LAYERS, 2, cache.rows, HEADS, 1, DIM), empty)


def draw_rows(rng, rows: int) -> np.ndarray:
    """Rows that go on: some of them, all repeated as beams, or any in any order."""
    some = np.flatnonzero(rng.integers(0, 2, rows)) if rng.integers(2) else np.arange(rows)
    some = some if len(some) else np.array([0])
    kind = rng.integers(3)
    return some if kind == 0 else np.repeat(some, 2)[:8] if kind == 1 else rng.integers(0, rows, rng.integers(1, 5))


@pytest.mark.parametrize("kind", CACHES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 3), moves, st.booleans() if xp.name == "torch" else st.just(True))  # MindSpore's slices copy
def test_any_order_of_moves_leaves_what_a_list_would_hold(kind, rows, drawn, empty):
    run_moves(kind, rows, drawn, empty)


class WritesOneTooFar(StaticCache):
    @staticmethod
    def append(past, new, position):
        return StaticCache.append(past, new, (position + 1) % CAPACITY)


class AttendsToTheEmptyPlace(PaddedCache):
    @staticmethod
    def visible(position, capacity):
        return PaddedCache.visible(position, capacity) | (xp.indices(capacity, position) == 0)[None]


class ForgetsToReorder(DynamicCache):
    def reorder_beams(self, rows):
        pass


class OverwritesWhatItStillNeeds(StaticCache):
    def reorder_beams(self, rows):
        for row, source in enumerate(rows):
            one = np.arange(self.rows)
            one[row] = source
            super().reorder_beams(one)


@pytest.mark.parametrize(
    "planted", [WritesOneTooFar, AttendsToTheEmptyPlace, ForgetsToReorder, OverwritesWhatItStillNeeds]
)
def test_planted_faults_are_found(planted):
    def swap_beams(kind):
        rng = np.random.default_rng(0)
        cache, listed = kind(capacity=CAPACITY), ListedCache(1)
        begin(cache, 1, rng)
        check_step(cache, listed, draw(rng, LAYERS, 2, 1, HEADS, 2, DIM), True)
        for rows, change in (([0, 0], cache.select_rows), ([1, 0], cache.reorder_beams)):
            change(np.array(rows))
            listed.select_rows(np.array(rows))
            check_step(cache, listed, draw(rng, LAYERS, 2, 2, HEADS, 1, DIM), True)

    swap_beams(planted.__base__)
    with pytest.raises(AssertionError):
        swap_beams(planted)


def test_beams_share_the_cross_attention_of_their_window():
    for kind in CACHES:
        cache = kind(capacity=CAPACITY)
        cross_kv = begin(cache, 2, np.random.default_rng(0))
        cache.select_rows(np.repeat([0, 1], 5))
        assert cache.rows == 10
        assert cache.active_cross_kv()[0][0].shape[0] == 2
        assert np.array_equal(xp.to_numpy(cache.active_cross_kv()[1][1]), cross_kv[1, 1])


def test_a_static_cache_stays_in_its_memory_and_returns_it_to_the_pool():
    cache = StaticCache(capacity=CAPACITY)
    begin(cache, 2, np.random.default_rng(0))
    buffers = cache.self_kv
    check_step(cache, ListedCache(2), draw(np.random.default_rng(1), LAYERS, 2, 2, HEADS, 3, DIM), True)
    cache.reorder_beams(np.array([1, 0]))
    cache.select_rows(np.array([1]))
    assert (cache.rows, cache.buffer_rows) == (1, 2)
    pairs = zip(buffers, cache.self_kv, strict=True)
    assert all(a is b for before, now in pairs for a, b in zip(before, now, strict=True))
    second = StaticCache(capacity=CAPACITY)
    begin(second, 2, np.random.default_rng(0))
    assert second.self_kv[0][0] is not buffers[0][0]  # the first still has its own
    del cache
    third = StaticCache(capacity=CAPACITY)
    begin(third, 2, np.random.default_rng(0))
    assert third.self_kv[0][0] is buffers[0][0]
    check_step(third, ListedCache(2), draw(np.random.default_rng(1), LAYERS, 2, 2, HEADS, 1, DIM), True)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CACHES)
def test_errors_say_what_is_wrong(kind):
    cache, rng = kind(capacity=CAPACITY), np.random.default_rng(0)
    with pytest.raises(OptimError, match="no window of sound"):
        cache.check_step(2, 1)
    begin(cache, 2, rng)
    with pytest.raises(OptimError, match="3 texts, but the cache holds 2"):
        cache.check_step(3, 1)
    with pytest.raises(OptimError, match="other windows"):
        begin(cache, 2, rng)
    with pytest.raises(OptimError, match="0 tokens and 13 more do not fit into 12 places"):
        cache.check_step(2, CAPACITY + 1)
    with pytest.raises(OptimError, match="into 5 places"):
        cache.check_step(2, 6, positions=5)
    for rows in ([2], [-1], []):
        with pytest.raises(OptimError, match="rows 0 to 1"):
            cache.select_rows(np.array(rows, np.int64))
    with pytest.raises(OptimError, match="1 rows for 2 texts"):
        cache.reorder_beams(np.array([0]))


# --- a whole model ----------------------------------------------------------------------------------------------------


def logits_in_pieces(kind, lengths: list[int]) -> np.ndarray:
    """(2, sum of lengths, vocab): a single token goes through `decode_step`, more through `prefill`."""
    model, start, parts = small_model(), 0, []
    cache = start_cache(model, encoder_out(2), kind())
    tokens = np.random.default_rng(1).integers(0, 90, (2, sum(lengths)))
    for length in lengths:
        piece = tokens[:, start : start + length]
        single = length == 1 and cache.length > 0
        parts.append(model.decode_step(piece[:, 0], cache)[:, None] if single else model.prefill(piece, cache))
        start += length
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("lengths", [[3, 1, 1, 1], [2, 3, 1]])
def test_logits_are_the_same_with_every_cache(lengths):
    whole = logits_in_pieces(DynamicCache, [6])
    for kind in CACHES:
        assert np.abs(logits_in_pieces(kind, lengths) - whole).max() < 1e-5


@pytest.mark.parametrize("beams", [1, 3])
def test_windows_in_a_batch_get_the_same_tokens_with_every_cache(beams):
    search = greedy if beams == 1 else functools.partial(beam_search, beams=beams)
    found = [search(WithCache(small_model(), kind), encoder_out(2), PROMPT, RULES, limit=12) for kind in CACHES]
    for texts in found[1:]:
        assert [text.tokens for text in texts] == [text.tokens for text in found[0]]
        assert np.allclose([text.avg_logprob for text in texts], [text.avg_logprob for text in found[0]], atol=1e-4)


def test_a_model_refuses_a_used_cache_and_an_overflow():
    model = small_model()
    cache = start_cache(model, encoder_out(1), StaticCache(capacity=4))
    model.prefill(np.array([[1, 2]]), cache)
    with pytest.raises(OptimError, match="other windows"):
        model.project_cross_kv(encoder_out(1), cache)
    with pytest.raises(OptimError, match="do not fit"):
        model.prefill(np.array([[3, 4, 5]]), cache)
    model.prefill(np.array([[3, 4]]), cache)  # the last places are there to be used


def test_memory_for_the_same_shape_is_not_taken_twice():
    pool = kv_cache.BufferPool()
    like = xp.asarray(np.zeros(1, np.float32))
    first = pool.acquire((1, 2, 3, 4), 2, like)
    pool.release(first)
    assert pool.acquire((1, 2, 3, 4), 1, like) is not first
    assert pool.acquire((1, 2, 3, 4), 2, like) is first
    assert pool.acquire((1, 2, 3, 4), 2, like) is not first
