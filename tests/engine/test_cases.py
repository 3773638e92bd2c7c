"""The fast engine on odd audio files and on real clips: the plain engine's words, and silence stays silent."""

from __future__ import annotations

import odd_audio
import pytest

from labsupport import whisper
from labsupport.engine.loading import load_fast
from labsupport.speech import audio
from labsupport.speech.text import normalise, wer

pytestmark = [pytest.mark.weights, pytest.mark.slow]

# One of each sound in odd_audio.FILES: the others differ in how it is stored, which is read before any engine.
SPOKEN = ("good.wav", "start.wav", "gsm.wav", "joined.mp3", "clip.webm", "silence_between.wav", "opposite_phase.wav")
SILENT = ("low_noise_20s.wav", "silence_10s.wav", "short_01s.wav", "rate_1hz.wav")
DEFAULTS = {"beams": 5, "vad": True}  # of `lab transcribe`


@pytest.fixture(scope="module")
def engines():
    return load_fast("tiny.en"), whisper.load("tiny.en", engine="onnx")


def words(transcript) -> str:
    return normalise(transcript.text)


@pytest.mark.parametrize("name", SPOKEN)
def test_words_of_odd_files_are_the_plain_engines(engines, tmp_path, name):
    samples = audio.read(odd_audio.write(tmp_path, name))
    fast, plain = (engine.transcribe(samples, **DEFAULTS) for engine in engines)
    assert len(words(plain).split()) >= 5
    assert wer(plain.text, fast.text) <= 0.1  # what ../shared/cases takes for right
    assert fast.segments
    for before, after in zip(fast.segments, fast.segments[1:], strict=False):
        assert before.end <= after.start
    assert 0 <= fast.segments[0].start < fast.segments[-1].end <= fast.duration


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("batch", [1, 8])
def test_no_words_are_invented(engines, tmp_path, name, batch):
    samples = audio.read(odd_audio.write(tmp_path, name))
    assert engines[0].transcribe(samples, batch=batch, **DEFAULTS).text == ""


def test_a_second_of_speech_is_a_few_words(engines, tmp_path):
    fast = engines[0].transcribe(audio.read(odd_audio.write(tmp_path, "channels_64.wav")), **DEFAULTS)
    assert 1 <= len(words(fast).split()) <= 5


@pytest.mark.parametrize("options", [DEFAULTS, {"batch": 8, "vad": True}], ids=["one by one", "in batches"])
def test_clips_have_no_more_errors_than_the_plain_engine_gives(engines, options):
    """As one text: in a clip of a dozen words a single word is 8 % already; int8 costs tiny.en up to four words."""
    clips = [audio.clip(name) for name in ("jfk", "narration")]
    spoken = " ".join(clip.text for clip in clips)
    texts = [" ".join(each.transcribe(audio.read(clip.path), **options).text for clip in clips) for each in engines]
    fast, plain = (wer(spoken, text) for text in texts)
    assert fast <= plain + 0.02
