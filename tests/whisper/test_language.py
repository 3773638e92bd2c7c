"""The language: given, refused, or voted for by several windows of speech."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from labsupport.base.errors import WhisperError
from labsupport.speech import audio
from labsupport.speech.segments import Span
from labsupport.whisper import language
from labsupport.whisper.language import check_language, check_task, find_code, find_name, vote_language

TOKENIZER = SimpleNamespace(languages={"de": 1, "en": 2, "ru": 3})


def model(multilingual: bool):
    return SimpleNamespace(config=SimpleNamespace(multilingual=multilingual))


def test_codes_and_names_are_each_others():
    theirs = dict(LANGUAGES)  # openai-whisper's table, as transformers ships it
    assert {code: find_name(code) for code in theirs} == theirs
    assert {find_code(find_name(code)) for code in theirs} == set(theirs)
    assert (find_name("iw"), find_name("none")) == ("hebrew", "none")


def test_a_language_that_the_model_lacks_is_refused():
    with pytest.raises(WhisperError, match="English alone"):
        check_language(model(False), TOKENIZER, "de")
    with pytest.raises(WhisperError, match="does not know") as refused:
        check_language(model(True), TOKENIZER, "klingon")
    assert "de, en, ru" in refused.value.hint
    for code in (None, "en"):
        check_language(model(False), TOKENIZER, code)
        check_language(model(True), TOKENIZER, code)


def test_a_task_that_the_model_lacks_is_refused():
    with pytest.raises(WhisperError, match="cannot translate"):
        check_task(model(False), "translate")
    with pytest.raises(WhisperError, match="no task 'summarise'"):
        check_task(model(True), "summarise")
    check_task(model(True), "translate")
    check_task(model(False), "transcribe")


def test_windows_vote_by_their_probabilities(monkeypatch):
    probs = {0: [0.5, 0.4, 0.1], 1: [0.1, 0.8, 0.1], 2: [0.4, 0.5, 0.1]}
    monkeypatch.setattr(language, "language_probs", lambda model, out, tokenizer: np.array([probs[out]]))
    windows = [Span(i, i + 1) for i in range(3)]
    code, probability = vote_language(None, TOKENIZER, windows, lambda span: span.start)
    assert code == "en"
    assert probability == pytest.approx((0.4 + 0.8 + 0.5) / 3)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("vad", [False, True])
def test_the_language_is_heard_on_speech_behind_a_silent_first_window(base, jfk, vad):
    noise = np.random.default_rng(0).normal(0, 1e-3, 35 * audio.SAMPLE_RATE).astype(np.float32)
    heard = base.ours.transcribe(np.concatenate([noise, jfk]), vad=vad)
    assert heard.language == "en"
    assert heard.language_probability > 0.9
    assert base.ours.transcribe(jfk, language="en").language_probability is None
