"""Packing and padding against NumPy, and attention over packed sequences against masked attention."""

from __future__ import annotations

import numpy as np
import pytest
from attention_reference import attend, draw, draw_mask, drawn_or
from hypothesis import strategies as st

from labsupport.arrays import xp
from labsupport.optim import padding
from labsupport.optim.attention import eager, tiled

pytestmark = pytest.mark.both_backends

ragged = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),  # lengths; a text may be empty, not all of them
    st.integers(0, 3),  # columns that are padding for all
    st.integers(0, 2**16),
)


def make_mask(lengths: list[int], spare: int) -> np.ndarray:
    """(batch, length) int64: 1 for real tokens, which come first."""
    return (np.arange(max(lengths) + spare)[None] < np.array(lengths)[:, None]).astype(np.int64)


@drawn_or(([5, 0, 3], 2, 1), ragged)
def test_unpadding_and_padding_again_gives_the_real_tokens_and_zeros_elsewhere(drawn):
    lengths, spare, seed = drawn
    mask = make_mask(lengths, spare)
    states = np.random.default_rng(seed).normal(size=(*mask.shape, 2, 3)).astype(np.float32)
    packed, indices, cu_seqlens, longest = padding.unpad_input(xp.asarray(states), xp.asarray(mask))
    assert np.array_equal(xp.to_numpy(packed), states[mask.astype(bool)])
    assert xp.to_numpy(cu_seqlens).tolist() == [0, *np.cumsum(lengths)]
    assert xp.to_numpy(cu_seqlens).dtype == np.int32
    assert longest == max(lengths)
    again = padding.pad_input(packed, indices, *mask.shape)
    assert np.array_equal(xp.to_numpy(again), states * mask[..., None, None])


def test_real_tokens_may_stand_anywhere_in_a_row():
    mask = draw_mask(1, (4, 7), 0.5)
    states = np.random.default_rng(1).normal(size=(4, 7, 3)).astype(np.float32)
    packed, indices, _, longest = padding.unpad_input(xp.asarray(states), xp.asarray(mask))
    assert np.array_equal(xp.to_numpy(packed), states[mask])
    assert longest == mask.sum(1).max()
    assert np.array_equal(xp.to_numpy(padding.pad_input(packed, indices, 4, 7)), states * mask[..., None])


def test_index_helpers_take_and_put_rows():
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    indices = np.array([4, 0, 3])
    taken = padding.index_first_axis(xp.asarray(rows), xp.asarray(indices))
    assert np.array_equal(xp.to_numpy(taken), rows[indices])
    put = xp.to_numpy(padding.index_put_first_axis(taken, xp.asarray(indices), 6))
    assert np.array_equal(put[indices], rows[indices])
    assert not put[[1, 2, 5]].any()


def packed_error(lengths, spare, seed, causal=False, attention=eager, shift=0) -> float:
    """How far packed attention is from masked attention in float64, on the real tokens."""
    mask = make_mask(lengths, spare)
    q, k, v = draw(seed, len(lengths), 2, mask.shape[1], mask.shape[1], head_dim=4)
    expected = attend(q, k, v, mask[:, None, None].astype(bool), causal).swapaxes(1, 2)[mask.astype(bool)]
    packs = [padding.unpad_input(xp.asarray(x.swapaxes(1, 2)), xp.asarray(mask)) for x in (q, k, v)]
    cu_seqlens = xp.to_numpy(packs[0][2]).copy()
    cu_seqlens[1:-1] += shift
    out = padding.varlen_attention(*(pack[0] for pack in packs), xp.asarray(cu_seqlens), causal, attention)
    return float(np.abs(xp.to_numpy(out) - expected).max())


@drawn_or((([5, 0, 3], 2, 1), True, tiled), st.tuples(ragged, st.booleans(), st.sampled_from([eager, tiled])))
def test_packed_attention_equals_masked_attention_on_real_tokens(drawn):
    lengths, causal, attention = drawn
    assert packed_error(*lengths, causal, attention) < 1e-5


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_wrong_boundary_between_sequences_shows(shift):
    assert packed_error([5, 3, 6], 2, 0) < 1e-5
    assert packed_error([5, 3, 6], 2, 0, shift=shift) > 1e-2
