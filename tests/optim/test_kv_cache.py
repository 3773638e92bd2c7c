"""The three caches against a plain list of tokens in NumPy, and against each other in a whole model."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import PROMPT, RULES, SMALL, draw, small_model, sound

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


class Listed:
    """What a cache must hold, as plain arrays: own (layers, 2, rows, heads, length, dim), and each row's window."""

    def __init__(self, rows: int):
        self.own, self.windows = np.zeros((LAYERS, 2, rows, HEADS, 0, DIM), np.float32), np.arange(rows)

    def append(self, new: np.ndarray) -> None:
        self.own = np.concatenate([self.own, new], axis=4)

    def keep(self, rows: np.ndarray) -> None:
        self.own, self.windows = self.own[:, :, rows], self.windows[rows]


def begin(cache, rows: int, rng) -> np.ndarray:
    """Gives the cache sound; returns cross-attention's keys and values of each window."""
    cross = draw(rng, LAYERS, 2, rows, HEADS, 4, DIM)
    audio = xp.asarray(draw(rng, rows, 4, HEADS * DIM))
    copies = cross.copy()  # torch would share the array's memory, and a static cache moves windows in place
    cache.begin(audio, [(xp.asarray(k), xp.asarray(v)) for k, v in copies])
    return cross


def take_step(cache, new: np.ndarray, empty: bool) -> tuple[np.ndarray, np.ndarray]:
    """Appends; returns all that the layers give to attend to, and the mask of who sees what."""
    tokens = new.shape[4]
    cache.expect(cache.rows, tokens, cache.audio, CAPACITY)
    ended = cache.width > cache.rows and empty
    padded = np.pad(new, [(0, 0), (0, 0), (0, cache.width - cache.rows if ended else 0), (0, 0), (0, 0), (0, 0)])
    position = xp.asarray(np.arange(cache.length, cache.length + tokens))
    past = cache.past(tokens, ended=ended, empty=empty)
    own = [
        cache.append(before, (xp.asarray(k), xp.asarray(v)), position)
        for before, (k, v) in zip(past, padded, strict=True)
    ]
    mask = cache.mask(position, empty)
    cache.store(own, tokens)
    held = np.array([[xp.to_numpy(tensor)[: cache.rows] for tensor in pair] for pair in own])
    if mask is None:  # all are there, the newest last: the causal rule
        length = held.shape[4]
        return held, np.arange(length)[None] <= np.arange(length - tokens, length)[:, None]
    return held, xp.to_numpy(mask)


def check_step(cache, listed: Listed, new: np.ndarray, empty: bool) -> None:
    """Query i of the step must see the tokens of its text up to itself, in their order, and nothing else."""
    held, mask = take_step(cache, new, empty)
    listed.append(new)
    tokens = new.shape[4]
    for query in range(tokens):
        visible = held[..., mask[query], :]
        expected = listed.own[..., : cache.length - tokens + query + 1, :]
        assert visible.shape == expected.shape
        assert np.array_equal(visible, expected)


def check_cross(cache, listed: Listed, cross: np.ndarray) -> None:
    """Every text must find its own window's sound."""
    held = np.array([[xp.to_numpy(tensor) for tensor in pair] for pair in cache.heard()])
    each = cache.rows // held.shape[2]
    assert np.array_equal(np.repeat(held, each, axis=2), cross[:, :, listed.windows])


moves = st.lists(st.tuples(st.sampled_from(["append", "append", "reorder", "keep"]), st.integers(0, 2**16)), max_size=7)


def run_moves(kind, rows: int, drawn, empty: bool) -> None:
    rng = np.random.default_rng(rows)
    cache, listed = kind(capacity=CAPACITY), Listed(rows)
    cross = begin(cache, rows, rng)
    check_step(cache, listed, draw(rng, LAYERS, 2, rows, HEADS, 2, DIM), empty)
    for move, seed in drawn:
        rng = np.random.default_rng(seed)
        if move == "append" and cache.length < CAPACITY:
            tokens = rng.integers(1, min(3, CAPACITY - cache.length) + 1)
            check_step(cache, listed, draw(rng, LAYERS, 2, cache.rows, HEADS, tokens, DIM), empty)
        elif move == "reorder":
            each = cache.rows // cache.heard()[0][0].shape[0]
            chosen = np.arange(cache.rows) // each * each + rng.integers(0, each, cache.rows)  # within the window
            cache.reorder(chosen)
            listed.keep(chosen)
        elif move == "keep":
            chosen = draw_kept(rng, cache.rows)
            cache.keep(chosen, cache.audio)
            listed.keep(chosen)
        check_cross(cache, listed, cross)
    if cache.length < CAPACITY:
        check_step(cache, listed, draw(rng, LAYERS, 2, cache.rows, HEADS, 1, DIM), empty)


def draw_kept(rng, rows: int) -> np.ndarray:
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


class SeesTheEmptyPlace(PaddedCache):
    @staticmethod
    def seen(position, capacity):
        return PaddedCache.seen(position, capacity) | (xp.indices(capacity, position) == 0)[None]


class ForgetsToReorder(DynamicCache):
    def reorder(self, rows):
        pass


class MovesOverWhatItStillNeeds(StaticCache):
    def reorder(self, rows):
        for row, source in enumerate(rows):
            one = np.arange(self.rows)
            one[row] = source
            super().reorder(one)


@pytest.mark.parametrize("planted", [WritesOneTooFar, SeesTheEmptyPlace, ForgetsToReorder, MovesOverWhatItStillNeeds])
def test_planted_faults_are_seen(planted):
    def swap_beams(kind):
        rng = np.random.default_rng(0)
        cache, listed = kind(capacity=CAPACITY), Listed(1)
        begin(cache, 1, rng)
        check_step(cache, listed, draw(rng, LAYERS, 2, 1, HEADS, 2, DIM), True)
        for rows, change in (([0, 0], lambda rows: cache.keep(rows, cache.audio)), ([1, 0], cache.reorder)):
            change(np.array(rows))
            listed.keep(np.array(rows))
            check_step(cache, listed, draw(rng, LAYERS, 2, 2, HEADS, 1, DIM), True)

    swap_beams(planted.__base__)
    with pytest.raises(AssertionError):
        swap_beams(planted)


def test_beams_share_the_sound_of_their_window():
    for kind in CACHES:
        cache = kind(capacity=CAPACITY)
        cross = begin(cache, 2, np.random.default_rng(0))
        cache.keep(np.repeat([0, 1], 5), cache.audio)
        assert cache.rows == 10
        assert cache.heard()[0][0].shape[0] == 2
        assert np.array_equal(xp.to_numpy(cache.heard()[1][1]), cross[1, 1])


def test_a_static_cache_keeps_its_memory_and_lends_it_on():
    cache = StaticCache(capacity=CAPACITY)
    begin(cache, 2, np.random.default_rng(0))
    buffers = cache.own
    check_step(cache, Listed(2), draw(np.random.default_rng(1), LAYERS, 2, 2, HEADS, 3, DIM), True)
    cache.reorder(np.array([1, 0]))
    cache.keep(np.array([1]), cache.audio)
    assert (cache.rows, cache.width) == (1, 2)
    assert all(a is b for before, now in zip(buffers, cache.own, strict=True) for a, b in zip(before, now, strict=True))
    second = StaticCache(capacity=CAPACITY)
    begin(second, 2, np.random.default_rng(0))
    assert second.own[0][0] is not buffers[0][0]  # the first still has its own
    del cache
    third = StaticCache(capacity=CAPACITY)
    begin(third, 2, np.random.default_rng(0))
    assert third.own[0][0] is buffers[0][0]
    check_step(third, Listed(2), draw(np.random.default_rng(1), LAYERS, 2, 2, HEADS, 1, DIM), True)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CACHES)
def test_errors_say_what_is_wrong(kind):
    cache, rng = kind(capacity=CAPACITY), np.random.default_rng(0)
    with pytest.raises(OptimError, match="3 texts, but the sound of 2"):
        cache.expect(3, 1, xp.asarray(draw(rng, 2, 4, 6)))
    begin(cache, 2, rng)
    with pytest.raises(OptimError, match="3 texts, but the cache holds 2"):
        cache.expect(3, 1, xp.asarray(draw(rng, 3, 4, 6)))
    with pytest.raises(OptimError, match="another sound"):
        cache.expect(2, 1, xp.asarray(draw(rng, 2, 4, 6)))
    with pytest.raises(OptimError, match="another sound"):
        cache.keep(np.array([0]), xp.asarray(draw(rng, 2, 4, 6)))
    with pytest.raises(OptimError, match="0 tokens and 13 more do not fit into 12 places"):
        cache.expect(2, CAPACITY + 1, cache.audio)
    with pytest.raises(OptimError, match="into 5 places"):
        cache.expect(2, 6, cache.audio, positions=5)
    for rows in ([2], [-1], []):
        with pytest.raises(OptimError, match="rows 0 to 1"):
            cache.keep(np.array(rows, np.int64), cache.audio)
    with pytest.raises(OptimError, match="1 rows for 2 texts"):
        cache.reorder(np.array([0]))


# --- a whole model ----------------------------------------------------------------------------------------------------


class With:
    """The small model with another kind of cache: the weights are made once."""

    def __init__(self, kind):
        self.new_cache = kind

    def __getattr__(self, name):
        return getattr(small_model(), name)


def logits_in_pieces(kind, cuts: list[int]) -> np.ndarray:
    model, cache, start, parts = small_model(), kind(), 0, []
    tokens = np.random.default_rng(1).integers(0, 90, (2, sum(cuts)))
    for cut in cuts:
        parts.append(model.step(tokens[:, start : start + cut], sound(2), cache))
        start += cut
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("cuts", [[3, 1, 1, 1], [2, 3, 1]])
def test_logits_are_the_same_with_every_cache(cuts):
    whole = logits_in_pieces(DynamicCache, [6])
    for kind in CACHES:
        assert np.abs(logits_in_pieces(kind, cuts) - whole).max() < 1e-5


@pytest.mark.parametrize("beams", [1, 3])
def test_windows_in_a_batch_get_the_same_tokens_with_every_cache(beams):
    search = greedy if beams == 1 else functools.partial(beam_search, beams=beams)
    found = [search(With(kind), sound(2), PROMPT, RULES, limit=12) for kind in CACHES]
    for texts in found[1:]:
        assert [text.tokens for text in texts] == [text.tokens for text in found[0]]
        assert np.allclose([text.logprob for text in texts], [text.logprob for text in found[0]], atol=1e-4)


def test_a_model_refuses_a_used_cache_and_an_overflow():
    model, cache = small_model(), StaticCache(capacity=4)
    model.step(np.array([[1, 2]]), sound(1), cache)
    with pytest.raises(OptimError):
        model.step(np.array([[3]]), model.encode(np.zeros((1, SMALL.mels, 2 * SMALL.audio_positions), "f")), cache)
    with pytest.raises(OptimError):
        model.step(np.array([[3, 4, 5]]), sound(1), cache)
    model.step(np.array([[3, 4]]), sound(1), cache)  # the last places are there to be used


def test_memory_for_the_same_shape_is_not_taken_twice():
    lent = kv_cache.Buffers()
    like = xp.asarray(np.zeros(1, np.float32))
    first = lent.lend((1, 2, 3, 4), 2, like)
    lent.take_back(first)
    assert lent.lend((1, 2, 3, 4), 1, like) is not first
    assert lent.lend((1, 2, 3, 4), 2, like) is first
    assert lent.lend((1, 2, 3, 4), 2, like) is not first
