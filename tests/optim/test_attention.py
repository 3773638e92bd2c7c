"""Every attention mode against NumPy in float64, on the framework of this process."""

from __future__ import annotations

import numpy as np
import pytest
from attention_reference import RAGGED, attend, draw, draw_mask, drawn_or, largest_error, tensors, tiled_error, tilings
from hypothesis import strategies as st

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.machine.backend import on_ascend
from labsupport.optim import attention
from labsupport.optim.attention import MODES, available_modes, find_missing, get_attention

pytestmark = pytest.mark.both_backends

TOLERANCE = 1e-5
AVAILABLE = [name for name in available_modes() if name != "triton"]  # Triton's has tests of its own
CASES = {
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


@pytest.mark.parametrize("name", AVAILABLE)
def test_mode_equals_float64(name):
    for case, (queries, keys, mask_shape, causal) in CASES.items():
        q, k, v = draw(1, 2, 3, queries, keys, head_dim=16)
        mask = None if mask_shape is None else draw_mask(2, mask_shape)
        error = largest_error(attend(q, k, v, mask, causal), get_attention(name), q, k, v, mask, causal=causal)
        assert error < TOLERANCE, case


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_query_without_any_key_gets_zeros_and_spoils_no_other(name):
    q, k, v = draw(3, 2, 3, 7, 7, head_dim=16)
    mask = draw_mask(4, (2, 1, 7, 7))
    mask[0, 0, 2] = mask[1] = False
    out = xp.to_numpy(get_attention(name)(*tensors(q, k, v, mask)))
    assert not out[0, :, 2].any()
    assert not out[1].any()
    assert np.abs(out - attend(q, k, v, mask)).max() < TOLERANCE


@pytest.mark.parametrize("name", ["eager", "tiled", "local"])
def test_compiled_mode_equals_float64(name):
    q, k, v = draw(5, 1, 2, 300, 300)
    expected = attend(q, k, v, None, True, window=attention.WINDOW if name == "local" else None)
    assert largest_error(expected, xp.compiled(MODES[name]), q, k, v, causal=True) < TOLERANCE


@drawn_or(RAGGED, tilings)
def test_tiled_equals_float64_whatever_the_lengths_blocks_and_masks(tiling):
    assert tiled_error(**tiling) < TOLERANCE


# --- local ------------------------------------------------------------------------------------------------------------

bands = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "length": st.integers(1, 200),
        "window": st.integers(0, 90),
        "causal": st.booleans(),
        "share": st.sampled_from([None, 0.3, 0.9]),
    }
)


@drawn_or({"seed": 1, "length": 150, "window": 20, "causal": False, "share": 0.9}, bands)
def test_local_equals_full_attention_in_a_band(band):
    assert local_error(**band) < TOLERANCE


def local_error(seed, length, window, causal, share) -> float:
    q, k, v = draw(seed, 2, 2, length, length, head_dim=4)
    mask = None if share is None else draw_mask(seed, (2, 1, 1, length), share)
    expected = attend(q, k, v, mask, causal, window)
    return largest_error(expected, attention.local, q, k, v, mask, causal=causal, window=window)


def test_local_computes_a_number_of_scores_that_grows_with_the_length_alone(monkeypatch):
    scores = []

    def count(q, k, v, mask=None):
        scores.append(q.shape[2] * k.shape[2])
        return v[:, :, : q.shape[2]]

    monkeypatch.setattr(attention, "eager", count)
    for length in (128, 256, 512, 1024):
        scores.clear()
        attention.local(*tensors(*draw(0, 1, 1, length, length)), window=64)
        assert 0 < sum(scores) <= length * 3 * 64


# --- the switch -------------------------------------------------------------------------------------------------------


def test_causal_mask_allows_each_query_the_keys_up_to_its_own_position():
    like = xp.asarray(np.ones(1, np.float32))
    assert xp.to_numpy(attention.causal_mask(2, 4, like)).astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert xp.to_numpy(attention.causal_mask(3, 2, like)).astype(int).tolist() == [[0, 0], [1, 0], [1, 1]]


def test_unknown_attention_names_the_modes():
    with pytest.raises(OptimError, match="eager, sdpa, tiled, flash, local, triton"):
        get_attention("flush")


def test_a_mode_runs_here_or_says_what_is_missing_and_what_to_use():
    for name in MODES:
        if name in available_modes():
            assert get_attention(name) is MODES[name]
            continue
        with pytest.raises(NotAvailable) as refused:
            get_attention(name)
        assert refused.value.what == find_missing(name)
        assert "tiled" in refused.value.hint
        assert name not in refused.value.hint


def test_the_modes_that_are_missing_are_those_that_this_machine_cannot_run():
    missing = set(MODES) - set(available_modes())
    if xp.name == "mindspore":
        assert missing == {"sdpa", "triton"} | (set() if on_ascend() else {"flash"})
    elif not xp.has_cuda():
        assert missing == {"triton"}


def test_transformers_has_three_of_our_modes():
    names = {name: attention.transformers_name(name) for name in ("eager", "sdpa", "flash")}
    assert names == {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}
    for name in ("tiled", "local", "triton", "flush"):
        with pytest.raises(OptimError, match="eager, sdpa, flash"):
            attention.transformers_name(name)


SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=100, audio_positions=300)


def compute_logits(mode: str) -> np.ndarray:
    """(6, vocab): a prompt of four tokens and two decode steps, with one mode in all places."""
    model = whisper.load_model(Checkpoint("small", None, SMALL, random=True), attention=get_attention(mode))
    mel = np.random.default_rng(0).normal(size=(1, SMALL.mels, 2 * SMALL.audio_positions)).astype(np.float32)
    cache = model.new_cache()
    model.project_cross_kv(model.encode(mel), cache)
    logits = [model.prefill(np.array([[1, 2, 3, 4]]), cache)[0]]
    return np.concatenate([*logits, *(model.decode_step(np.array([token]), cache) for token in (5, 6))])


@pytest.mark.slow  # MindSpore compiles two models
def test_a_model_with_tiled_attention_gives_the_logits_of_eager():
    assert np.abs(compute_logits("tiled") - compute_logits("eager")).max() < TOLERANCE
