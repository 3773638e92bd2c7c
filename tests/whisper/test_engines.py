"""The same text and segments on every engine: this process's framework against ONNX Runtime, decoding greedily."""

from __future__ import annotations

import odd_audio
import pytest
from same_transcript import assert_same

from labsupport import whisper
from labsupport.machine.backend import choose_backend
from labsupport.speech import audio

pytestmark = [pytest.mark.both_backends, pytest.mark.weights, pytest.mark.slow]

# One of each sound in odd_audio.FILES: the others differ in how it is stored, and are the same samples or nearly so.
SOUNDS = (
    "good.wav", "start.wav", "gsm.wav", "joined.mp3", "clip.webm", "silence_between.wav", "opposite_phase.wav",
    "low_noise_20s.wav", "silence_10s.wav", "short_01s.wav", "rate_1hz.wav", "channels_64.wav",
)  # fmt: skip
ON_MINDSPORE = ("good.wav", "silence_between.wav", "low_noise_20s.wav", "silence_10s.wav", "short_01s.wav")
# Its steps take long on a CPU, and the others differ in how they are read, which is the same code for every engine.


@pytest.fixture(scope="module")
def engines():
    return whisper.load("tiny.en"), whisper.load("tiny.en", engine="onnx")


@pytest.mark.parametrize("name", SOUNDS if choose_backend() == "torch" else ON_MINDSPORE)
def test_text_and_segments_are_the_same(engines, tmp_path, name):
    samples = audio.read(odd_audio.write(tmp_path, name))
    assert_same(*(engine.transcribe(samples, vad=True) for engine in engines))


def test_without_a_detector_and_with_word_times_they_are_the_same_too(engines, tmp_path):
    samples = audio.read(odd_audio.write(tmp_path, "start.wav"))
    framework, runtime = (engine.transcribe(samples, word_timestamps=True) for engine in engines)
    assert [word.text for s in framework.segments for word in s.word_timings] == [
        word.text for s in runtime.segments for word in s.word_timings
    ]
    for one, other in zip(framework.segments, runtime.segments, strict=True):
        for left, right in zip(one.word_timings, other.word_timings, strict=True):
            assert left.start == pytest.approx(right.start, abs=0.021)
            assert left.end == pytest.approx(right.end, abs=0.021)
