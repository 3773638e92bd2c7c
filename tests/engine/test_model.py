"""The fast Whisper: torch's logits, beams and cross-attention in float32, and its text in eight bits."""

from __future__ import annotations

import numpy as np
import pytest
from engine_steps import TEXT, decode_beams, error, mels
from exact_engine import exact_model
from small_model import error_of_last_logits, prefill_in_pieces, start_cache
from small_whisper import SMALL

from labsupport.base.errors import OptimError
from labsupport.engine import loading
from labsupport.speech import audio, text
from labsupport.whisper import torch_model


@pytest.fixture(scope="module")
def small():
    """The small model twice, torch's first."""
    return torch_model.load_model(SMALL), exact_model(SMALL)


@pytest.fixture(scope="module")
def fast():
    return loading.load("tiny.en")


@pytest.mark.parametrize("cuts", [[1] * 7, [4, 1, 1, 1], [2, 3, 2], [7]])
def test_decoding_in_pieces_gives_torchs_logits(small, cuts):
    theirs, model = small
    expected = theirs.prefill(TEXT, start_cache(theirs, theirs.encode(mels(2))))
    cache = start_cache(model, model.encode(mels(2)))
    assert error(prefill_in_pieces(model, cache, TEXT, cuts), expected) < 1e-5
    assert cache.length == 7


def test_the_last_logits_are_those_of_the_whole(small):
    _, model = small
    assert error_of_last_logits(model, model.encode(mels(2)), TEXT) < 1e-5


@pytest.mark.parametrize("windows", [1, 3])
def test_beams_that_change_places_and_windows_that_end(small, windows):
    theirs, model = small
    assert error(decode_beams(model, windows), decode_beams(theirs, windows)) < 1e-5


def test_two_texts_at_once_do_not_disturb_each_other(small):
    _, model = small
    encoded = model.encode(mels(2))
    together = prefill_in_pieces(model, start_cache(model, encoded), TEXT, [2, 1, 4])
    caches = [start_cache(model, encoded[i : i + 1]) for i in range(2)]
    pieces = [[model.prefill(TEXT[i : i + 1, part], caches[i]) for i in range(2)] for part in (slice(2), slice(2, 7))]
    assert error(np.concatenate([np.concatenate(piece) for piece in pieces], axis=1), together) < 1e-5


def test_too_long_a_text_and_a_wrong_batch_are_refused(small):
    _, model = small
    encoder_out, cache = model.encode(mels(2)), model.new_cache()
    with pytest.raises(OptimError, match="no window of sound"):
        model.prefill(TEXT, cache)
    model.project_cross_kv(encoder_out, cache)
    with pytest.raises(OptimError, match="25 tokens"):
        model.prefill(np.zeros((2, 25), np.int64), cache)
    model.prefill(TEXT[:, :2], cache)
    with pytest.raises(OptimError, match="3 texts for a cache of 2"):
        model.decode_step(np.zeros(3, np.int64), cache)


@pytest.mark.parametrize("length", [1, 4, 7])
def test_cross_attention_is_torchs(small, length):
    theirs, model = small
    heads = [(1, 1), (0, 0), (1, 0)]
    expected = theirs.cross_attention(TEXT[:1, :length], theirs.encode(mels(1)), heads)
    assert error(model.cross_attention(TEXT[:1, :length], model.encode(mels(1)), heads), expected) < 1e-6


def test_an_unknown_head_and_too_long_a_text_are_refused(small):
    _, model = small
    with pytest.raises(OptimError, match=r"no cross-attention head \(2, 0\)"):
        model.cross_attention(TEXT[:1], model.encode(mels(1)), [(2, 0)])
    with pytest.raises(OptimError, match="25 tokens"):
        model.cross_attention(np.zeros((1, 25), np.int64), model.encode(mels(1)), [(0, 0)])


# --- in eight bits ----------------------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"beams": 5}, {"timestamps": False}, {"word_timestamps": True}], ids=str)
def test_jfk_is_torchs_text_with_times_next_to_it(fast, tiny, jfk, options):
    found, expected = fast.transcribe(jfk, **options), tiny.ours.transcribe(jfk, **options)
    assert text.wer(expected.text, found.text) == 0  # a comma may differ
    for ours, theirs in zip(found.segments, expected.segments, strict=True):
        assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end), abs=0.5)
        assert [each.start for each in ours.word_timings] == pytest.approx(
            [each.start for each in theirs.word_timings], abs=0.3
        )


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"batch": 4, "vad": True}, {}], ids=str)
def test_a_long_clip_has_few_errors_more_than_with_torch(fast, tiny, narration, options):
    rates = [
        text.wer(audio.clip("narration").text, each.transcribe(narration, **options).text) for each in (fast, tiny.ours)
    ]
    assert rates[0] < rates[1] + 0.015  # four of its 278 words
