"""Every attention mode against NumPy in float64, on the framework of this process."""

from __future__ import annotations

import numpy as np
import pytest
from attention_reference import attend, draw, draw_mask, gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.machine.backend import on_ascend
from labsupport.optim import attention
from labsupport.optim.attention import MODES, find_lack, get_attention
from labsupport.optim.attention_backward import tiled_backward

pytestmark = pytest.mark.both_backends

EXAMPLES = 60 if xp.name == "torch" else 8  # MindSpore takes longer for each operation
TOLERANCE = 1e-5
CASES = {
    "all": (5, 5, None, False),
    "causal": (5, 5, None, True),
    "last queries": (2, 7, None, True),
    "one query": (1, 7, None, True),
    "more queries than keys": (7, 3, None, True),
    "cross": (5, 9, None, False),
    "padding": (6, 6, (2, 1, 1, 6), False),
    "full mask": (6, 9, (2, 3, 6, 9), False),
    "mask of two axes": (6, 9, (6, 9), False),
    "mask and causal": (6, 6, (2, 1, 1, 6), True),
}


def tensors(*arrays):
    return [None if array is None else xp.asarray(array) for array in arrays]


def worst(expected, function, *arrays, **options) -> float:
    """The largest difference of `function` from the expected array."""
    return float(np.abs(xp.to_numpy(function(*tensors(*arrays), **options)) - expected).max())


def mode_here(name: str):
    if lack := find_lack(name):
        pytest.skip(lack)
    return get_attention(name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(set(MODES) - {"triton"}))  # Triton's has tests of its own
def test_mode_equals_float64(name, case):
    queries, keys, mask_shape, causal = CASES[case]
    q, k, v = draw(1, 2, 3, queries, keys, head_dim=16)
    mask = None if mask_shape is None else draw_mask(2, mask_shape)
    assert worst(attend(q, k, v, mask, causal), mode_here(name), q, k, v, mask, causal=causal) < TOLERANCE


@pytest.mark.parametrize("name", sorted(set(MODES) - {"triton"}))
def test_a_query_that_sees_nothing_gets_zeros_and_spoils_no_other(name):
    q, k, v = draw(3, 2, 3, 7, 7, head_dim=16)
    mask = draw_mask(4, (2, 1, 7, 7))
    mask[0, 0, 2] = mask[1] = False
    out = xp.to_numpy(mode_here(name)(*tensors(q, k, v, mask)))
    assert not out[0, :, 2].any()
    assert not out[1].any()
    assert np.abs(out - attend(q, k, v, mask)).max() < TOLERANCE


@pytest.mark.parametrize("name", ["eager", "tiled", "local"])
def test_compiled_mode_equals_float64(name):
    compiled = xp.compiled(MODES[name])
    q, k, v = draw(5, 1, 2, 300, 300)
    for causal in (False, True):
        expected = attend(q, k, v, None, causal, window=attention.WINDOW if name == "local" else None)
        assert worst(expected, compiled, q, k, v, causal=causal) < TOLERANCE


# --- tiled ------------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 40)
inputs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "queries": sizes,
        "keys": sizes,
        "query_block": sizes,
        "key_block": sizes,
        "scale": st.sampled_from([0.1, 1.0, 30.0]),
        "share": st.sampled_from([None, 0.0, 0.3, 0.9]),
        "mask_axes": st.tuples(*[st.booleans()] * 4),
        "causal": st.booleans(),
    }
)


def tiled_error(seed, queries, keys, query_block, key_block, scale, share, mask_axes, causal) -> float:
    q, k, v = draw(seed, 2, 2, queries, keys, head_dim=4, scale=scale)
    shape = tuple(n if whole else 1 for n, whole in zip((2, 2, queries, keys), mask_axes, strict=True))
    mask = None if share is None else draw_mask(seed, shape, share)
    blocks = {"query_block": query_block, "key_block": key_block}
    return worst(attend(q, k, v, mask, causal), attention.tiled, q, k, v, mask, causal=causal, **blocks)


@settings(max_examples=EXAMPLES, deadline=None)
@given(inputs)
def test_tiled_equals_float64_whatever_the_lengths_blocks_and_masks(given_inputs):
    assert tiled_error(**given_inputs) < TOLERANCE


def planted_case() -> float:
    """Several ragged blocks, large scores: what the faults below must show on."""
    return tiled_error(7, 13, 23, 5, 4, 30.0, 0.8, (True, True, True, True), True)


def without_rescaling_the_output(best, total, out, scores, values):
    new_best, new_total, _ = attention_step(best, total, out, scores, values)
    return new_best, new_total, out + xp.exp(scores - new_best) @ values


def without_rescaling_the_sum(best, total, out, scores, values):
    new_best, _, new_out = attention_step(best, total, out, scores, values)
    return new_best, total + xp.sum(xp.exp(scores - new_best), axis=-1), new_out


def starting_anew(best, total, out, scores, values):
    new_best = xp.maximum(xp.max(scores, axis=-1), best * 0 + attention.LOWEST)
    weights = xp.exp(scores - new_best)
    return new_best, xp.sum(weights, axis=-1), weights @ values


def rows_first(mask, rows, columns):
    return mask[..., : rows[1] - rows[0], : columns[1] - columns[0]]


def without_the_ragged_block(length, size):
    return [(start, start + size) for start in range(0, length - size + 1, size)] or [(0, length)]


attention_step = attention.online_softmax
FAULTS = {
    "output not rescaled": ("online_softmax", without_rescaling_the_output),
    "sum not rescaled": ("online_softmax", without_rescaling_the_sum),
    "each block starts anew": ("online_softmax", starting_anew),
    "mask of the first block everywhere": ("cut", rows_first),
    "off by one at the diagonal": ("last_key", lambda q, k, causal, rows: rows[0] + k.shape[2] - q.shape[2]),
}


def test_planted_case_is_right_without_a_fault():
    assert planted_case() < TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, monkeypatch):
    monkeypatch.setattr(attention, *FAULTS[fault])
    assert planted_case() > 1e-2


def test_a_lost_ragged_block_is_seen(monkeypatch):
    monkeypatch.setattr(attention, "blocks", without_the_ragged_block)
    with pytest.raises(ValueError, match="broadcast"):
        planted_case()  # 13 queries went in, 10 come out


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(inputs)
def test_backward_by_recomputation_equals_the_gradient_of_the_whole_matrix(given):
    q, k, v = draw(given["seed"], 2, 2, given["queries"], given["keys"], head_dim=4)
    mask = None if given["share"] is None else draw_mask(given["seed"], (2, 1, given["queries"], given["keys"]))
    grad = draw(given["seed"] + 1, 2, 2, given["queries"], 1, head_dim=4)[0]
    settled = (given["causal"], given["query_block"], given["key_block"])
    forward = attention.tiled_with_statistics(*tensors(q, k, v, mask), *settled)
    found = tiled_backward(*tensors(grad, q, k, v), *forward, *tensors(mask), *settled)
    for mine, expected in zip(found, gradients(grad, q, k, v, mask, given["causal"]), strict=True):
        assert np.abs(xp.to_numpy(mine) - expected).max() < TOLERANCE


# --- local ------------------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    length=st.integers(1, 200),
    window=st.integers(0, 90),
    causal=st.booleans(),
    share=st.sampled_from([None, 0.3, 0.9]),
)
def test_local_equals_full_attention_in_a_band(seed, length, window, causal, share):
    q, k, v = draw(seed, 2, 2, length, length, head_dim=4)
    mask = None if share is None else draw_mask(seed, (2, 1, 1, length), share)
    expected = attend(q, k, v, mask, causal, window)
    assert worst(expected, attention.local, q, k, v, mask, causal=causal, window=window) < TOLERANCE


def test_local_computes_a_number_of_scores_that_grows_with_the_length_alone(monkeypatch):
    scores = []

    def count(q, k, v, mask=None):
        scores.append(q.shape[2] * k.shape[2])
        return v[:, :, : q.shape[2]]

    monkeypatch.setattr(attention, "eager", count)
    totals = {}
    for length in (1024, 4096):
        scores.clear()
        attention.local(*tensors(*draw(0, 1, 1, length, length)), window=64)
        totals[length] = sum(scores)
    assert totals[4096] < 4.2 * totals[1024]
    assert totals[1024] < 1024 * 3 * 64 + 1


# --- the switch -------------------------------------------------------------------------------------------------------


def test_causal_mask_lets_each_query_see_up_to_its_own_place():
    like = xp.asarray(np.ones(1, np.float32))
    assert xp.to_numpy(attention.causal_mask(2, 4, like)).astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert xp.to_numpy(attention.causal_mask(3, 2, like)).astype(int).tolist() == [[0, 0], [1, 0], [1, 1]]


def test_unknown_attention_names_the_modes():
    with pytest.raises(OptimError, match="eager, sdpa, tiled, flash, local, triton"):
        get_attention("flush")


@pytest.mark.parametrize("name", MODES)
def test_a_mode_runs_here_or_says_what_it_lacks_and_what_to_use(name):
    if name in attention.modes_here():
        assert get_attention(name) is MODES[name]
        return
    with pytest.raises(NotAvailable) as refused:
        get_attention(name)
    assert refused.value.what == find_lack(name)
    assert "tiled" in refused.value.hint
    assert name not in refused.value.hint


def test_what_lacks_here_is_what_this_machine_lacks():
    missing = set(MODES) - set(attention.modes_here())
    if xp.name == "mindspore":
        assert missing == {"sdpa", "triton"} | (set() if on_ascend() else {"flash"})
    elif not xp.has_cuda():
        assert missing == {"triton"}


def test_transformers_has_three_of_our_modes():
    assert [attention.transformers_name(name) for name in ("eager", "sdpa", "flash")] == [
        "eager",
        "sdpa",
        "flash_attention_2",
    ]
    for name in ("tiled", "local", "triton", "flush"):
        with pytest.raises(OptimError, match="eager, sdpa, flash"):
            attention.transformers_name(name)


SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=100, audio_positions=600)


def read_logits(mode: str) -> np.ndarray:
    """(1, 6, vocab): a prompt of four tokens and two decode steps, with one mode in all places."""
    checkpoint = Checkpoint("small", None, SMALL, random=True)
    model = whisper.load_model(checkpoint, attention=get_attention(mode))
    mel = np.random.default_rng(0).normal(size=(1, SMALL.mels, 2 * SMALL.audio_positions)).astype(np.float32)
    audio, cache = model.encode(mel), model.new_cache()
    pieces = [np.array([[1, 2, 3, 4]]), np.array([[5]]), np.array([[6]])]
    return np.concatenate([model.step(tokens, audio, cache) for tokens in pieces], axis=1)


def test_a_model_with_tiled_attention_gives_the_logits_of_eager():
    assert np.abs(read_logits("tiled") - read_logits("eager")).max() < TOLERANCE
