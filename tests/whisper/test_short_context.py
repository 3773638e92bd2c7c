"""A short context against transformers' encoder, cut to the same length."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from labsupport.speech import audio, features, text
from labsupport.whisper.short_context import ShortContext, with_short_context


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("frames", [200, 1300, 3000])
def test_a_short_encoder_is_transformers_with_fewer_positions(tiny, jfk, frames):
    mel = features.window(features.log_mel(jfk), 0)[None]
    found = ShortContext(tiny.ours.model, frames).encode(mel)
    encoder = copy.deepcopy(tiny.theirs.model.encoder)
    encoder.config.max_source_positions = frames // 2
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[: frames // 2])
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(mel[:, :, :frames])).last_hidden_state
    assert found.shape == (1, frames // 2, 384)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.weights
@pytest.mark.slow
def test_with_silence_after_it_a_sentence_comes_out_with_its_times(tiny, jfk):
    short = with_short_context(tiny.ours, 11.0)
    found = short.transcribe(jfk, word_timestamps=True)
    assert text.wer(audio.clip("jfk").text, found.text) == 0
    assert found.segments[-1].end <= 11
    assert short.model.config is tiny.ours.model.config
