"""A loop graph run on its own: without advancing, step by step, and under the profiler."""

from __future__ import annotations

import numpy as np
import pytest
from small_steps import ONE_THREAD, SMALL, RandomCheckpoint

from labsupport.graphs import analysis, passes, whisper_graphs
from labsupport.graphs.loop import Loop, past_after, profile_step, project_cross_kv

CHECKPOINT = RandomCheckpoint(SMALL, 0)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_run_gives_the_same_again_until_the_loop_goes_on(small, count):
    model, cross_kv, past, expected = small
    loop = Loop(passes.run_all(model, list(passes.PASSES)[:count]), cross_kv, past, **ONE_THREAD)
    first, again = (loop.run(np.full(3, 1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(loop.decode_step(np.full(3, 1)), first)
    np.testing.assert_allclose(loop.run(np.full(3, 2)), expected["logits 1"], atol=1e-5)


def test_a_past_is_what_the_steps_leave(small):
    cross_kv = small[1]
    past = past_after(whisper_graphs.decoder_step(CHECKPOINT, 2), CHECKPOINT, cross_kv, [1, 2, 3], beams=2)
    without_logits = whisper_graphs.decoder_step(CHECKPOINT, 1, logits=False)
    again = past_after(without_logits, CHECKPOINT, cross_kv, iter([1, 2, 3]), beams=1)
    for name, array in past.items():
        assert array.shape == (2, 3, SMALL.heads, SMALL.head_dim)
        np.testing.assert_allclose(array, np.repeat(again[name], 2, axis=0), atol=1e-6)


def test_cross_attention_is_projected_head_by_head():
    encoder_out = np.random.default_rng(0).standard_normal((2, 6, SMALL.d_model)).astype(np.float32)
    cross_kv, weights = project_cross_kv(CHECKPOINT, encoder_out), dict(CHECKPOINT.tensors())
    name = "model.decoder.layers.1.encoder_attn"
    rows = slice(SMALL.head_dim, 2 * SMALL.head_dim)  # of the second head
    k = encoder_out @ weights[f"{name}.k_proj.weight"][rows].T
    v = encoder_out @ weights[f"{name}.v_proj.weight"][rows].T + weights[f"{name}.v_proj.bias"][rows]
    np.testing.assert_allclose(cross_kv["cross_k.1"][:, :, 1], k, atol=1e-6)
    np.testing.assert_allclose(cross_kv["cross_v.1"][:, :, 1], v, atol=1e-6)
    assert len(cross_kv) == 2 * SMALL.decoder_layers


def test_the_op_table_of_a_step_counts_the_graphs_ops(small, tmp_path):
    model, cross_kv, past, _ = small
    table = profile_step(model, cross_kv, past, np.full(3, 1), tmp_path, runs=3, optimise=False, **ONE_THREAD)
    assert {row.name: row.calls for row in table} == dict(analysis.op_counts(model))
