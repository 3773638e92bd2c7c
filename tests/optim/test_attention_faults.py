"""Faults planted in tiled attention: the comparison with float64 in test_attention.py must show each of them."""

from __future__ import annotations

import pytest
from attention_reference import RAGGED, tiled_error

from labsupport.arrays import xp
from labsupport.optim import attention

online_softmax = attention.online_softmax


def without_rescaling_the_output(row_max, row_sum, out, scores, values):
    new_max, new_sum, _ = online_softmax(row_max, row_sum, out, scores, values)
    return new_max, new_sum, out + xp.exp(scores - new_max) @ values


def without_rescaling_the_sum(row_max, row_sum, out, scores, values):
    new_max, _, new_out = online_softmax(row_max, row_sum, out, scores, values)
    return new_max, row_sum + xp.sum(xp.exp(scores - new_max), axis=-1), new_out


def starting_anew(row_max, row_sum, out, scores, values):
    new_max = xp.maximum(xp.max(scores, axis=-1), row_max * 0 + attention.LOWEST)
    weights = xp.exp(scores - new_max)
    return new_max, xp.sum(weights, axis=-1), weights @ values


def first_block(mask, rows, columns):
    return mask[..., : rows[1] - rows[0], : columns[1] - columns[0]]


def without_the_ragged_block(length, size):
    return [(start, start + size) for start in range(0, length - size + 1, size)] or [(0, length)]


FAULTS = {
    "output not rescaled": ("online_softmax", without_rescaling_the_output),
    "sum not rescaled": ("online_softmax", without_rescaling_the_sum),
    "each block starts anew": ("online_softmax", starting_anew),
    "mask of the first block everywhere": ("mask_block", first_block),
    "off by one at the diagonal": ("count_keys", lambda q, k, causal, rows: rows[0] + k.shape[2] - q.shape[2]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault, monkeypatch):
    assert tiled_error(**RAGGED) < 1e-5
    monkeypatch.setattr(attention, *FAULTS[fault])
    assert tiled_error(**RAGGED) > 1e-2


def test_a_lost_ragged_block_shows(monkeypatch):
    monkeypatch.setattr(attention, "blocks", without_the_ragged_block)
    with pytest.raises(ValueError, match="broadcast"):
        tiled_error(**RAGGED)  # 13 queries went in, 10 come out
