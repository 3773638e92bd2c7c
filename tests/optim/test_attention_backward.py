"""The backward pass that computes scores again, against the gradient of the whole matrix in float64."""

from __future__ import annotations

import numpy as np
import pytest
from attention_reference import RAGGED, draw, draw_mask, drawn_or, gradients, tensors, tilings

from labsupport.arrays import xp
from labsupport.optim import attention
from labsupport.optim.attention_backward import tiled_backward

pytestmark = pytest.mark.both_backends


@drawn_or(RAGGED | {"scale": 1.0, "queries": 9, "keys": 7}, tilings)
def test_backward_by_recomputation_equals_the_gradient_of_the_whole_matrix(tiling):
    seed, queries, keys, share, causal = (tiling[name] for name in ("seed", "queries", "keys", "share", "causal"))
    q, k, v = draw(seed, 2, 2, queries, keys, head_dim=4)
    mask = None if share is None else draw_mask(seed, (2, 1, queries, keys))
    dout = draw(seed + 1, 2, 2, queries, 1, head_dim=4)[0]
    settings = (causal, tiling["query_block"], tiling["key_block"])
    forward = attention.tiled_with_lse(*tensors(q, k, v, mask), *settings)
    found = tiled_backward(*tensors(dout, q, k, v), *forward, *tensors(mask), *settings)
    for ours, expected in zip(found, gradients(dout, q, k, v, mask, causal), strict=True):
        assert np.abs(xp.to_numpy(ours) - expected).max() < 1e-5
