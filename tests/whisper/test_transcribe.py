"""Long-form transcription against transformers, and on silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import TIMESTAMP_RULES
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from labsupport.base.errors import WhisperError
from labsupport.speech import audio, features, text
from labsupport.whisper.transcribe import cut_segments


@pytest.fixture(scope="module")
def transcripts(tiny, base, narration) -> dict:
    """Both models' transcripts of the narration, made once."""
    return {name: pair.ours.transcribe(narration) for name, pair in (("tiny.en", tiny), ("base", base))}


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("tiny.en", 0.08), ("base", 0.04)])
def test_long_form_segments_equal_transformers(request, transcripts, narration, name, most):
    pair, found = request.getfixturevalue(name.removesuffix(".en")), transcripts[name]
    inputs = pair.processor(
        narration, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    options = {"language": "en"} if pair.ours.model.config.multilingual else {}
    theirs = pair.theirs.generate(**inputs, return_timestamps=True, return_segments=True, **options)["segments"][0]
    eot, decode = pair.ours.rules.eot, pair.ours.tokenizer.decode
    assert [s.text for s in found.segments] == [
        decode([t for t in s["tokens"].tolist() if t < eot]).strip() for s in theirs
    ]
    assert [s.start for s in found.segments] == pytest.approx([float(s["start"]) for s in theirs], abs=0.011)
    assert [s.end for s in found.segments] == pytest.approx([float(s["end"]) for s in theirs], abs=0.011)
    assert text.wer(audio.clip("narration").text, found.text) <= most


@pytest.mark.weights
@pytest.mark.slow
def test_jfk_comes_out_word_for_word(pair, jfk):
    assert text.wer(audio.clip("jfk").text, pair.ours.transcribe(jfk).text) == 0


@pytest.mark.weights
@pytest.mark.slow
def test_windows_in_batches_lose_little(tiny, narration):
    found = tiny.ours.transcribe(narration, batch=4)
    assert text.wer(audio.clip("narration").text, found.text) < 0.1
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)
    assert found.segments[-1].end > 85


@pytest.mark.weights
@pytest.mark.parametrize("batch", [1, 4])
def test_log_mel_is_computed_once_for_the_whole_clip(tiny, narration, monkeypatch, batch):
    lengths, log_mel = [], features.log_mel
    monkeypatch.setattr(
        features, "log_mel", lambda samples, mels: lengths.append(len(samples)) or log_mel(samples, mels)
    )
    samples = narration[: 34 * audio.SAMPLE_RATE]
    tiny.ours.transcribe(samples, batch=batch)
    assert lengths == [len(samples)]


@pytest.mark.weights
@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.zeros(32_000, np.float32)])
def test_silence_is_no_error_and_no_text(tiny, samples):
    assert tiny.ours.transcribe(samples).text == ""


@pytest.mark.weights
def test_a_language_that_the_model_lacks_is_refused(tiny, base, jfk):
    with pytest.raises(WhisperError, match="English alone"):
        tiny.ours.transcribe(jfk, language="de")
    with pytest.raises(WhisperError, match="does not know"):
        base.ours.transcribe(jfk, language="klingon")


texts = st.lists(st.integers(0, 49) | st.integers(61, 99), min_size=1, max_size=8)


@given(texts, st.integers(1, 1500))
@settings(deadline=None)
def test_cut_segments_equals_transformers(tokens, half_frames):
    frames = 2 * half_frames
    theirs, ahead = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(tokens), seek_outputs=[None], time_offset=torch.zeros(1, dtype=torch.float64),
        timestamp_begin=61, seek_num_frames=torch.tensor([frames]), time_precision=0.02,
        time_precision_features=0.01, input_stride=2, prev_idx=0, idx=0, return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 1),
    )  # fmt: skip
    segments, our_ahead = cut_segments(tokens, TIMESTAMP_RULES, frames)
    assert our_ahead == int(ahead)
    assert len(segments) == len(theirs)
    for (start, end, part), segment in zip(segments, theirs, strict=True):
        assert 0.02 * start == pytest.approx(float(segment["start"]))
        # transformers derives an end without a timestamp in floating point, and may lose one step of 0.02 s
        stamps = [token for token in tokens if token >= 61]
        slack = 1e-6 if stamps and stamps[-1] > 61 else 0.0201
        assert 0.02 * end == pytest.approx(float(segment["end"]), abs=slack)
        assert [t for t in part if t < 61] == [t for t in segment["tokens"].tolist() if t < 61]
