"""The article's shape, mended: it answers with the pipeline's text, and one request after the other."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from labsupport.base.paths import AUDIO
from labsupport.benchmarks import serving, serving_article


@pytest.fixture
def stereo():
    """A second at 8 kHz, its channels apart."""
    file = io.BytesIO()
    soundfile.write(file, np.stack([np.full(8000, 0.5), np.full(8000, 0.25)], 1), 8000, format="WAV")
    return file.getvalue()


def test_an_upload_becomes_mono_at_16_khz(stereo):
    given = []
    app = serving_article.create_app(lambda samples: given.append(samples) or "so")
    answer = TestClient(app).post("/transcribe", files={"file": ("a.wav", stereo)})
    assert answer.json() == {"text": "so"}
    assert given[0].shape == (16_000,)
    assert np.median(given[0]) == pytest.approx(0.375, abs=1e-3)


def test_without_an_upload_it_refuses():
    assert TestClient(serving_article.create_app(len)).post("/transcribe").status_code == 422


@pytest.mark.weights
@pytest.mark.slow
def test_the_process_answers_with_what_was_said():
    with serving.start_article("tiny.en") as target:
        (answer,) = serving.load(target, AUDIO / "jfk.flac", clients=1, each=1)
    assert answer.status == 200
    assert "ask not what your country can do for you" in answer.text.lower()
