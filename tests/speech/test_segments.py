"""Voice activity against faster-whisper's code: the same network, the same spans from random probabilities."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import math

import numpy as np
import pytest
from fresh_process import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from labsupport.base.errors import NotAvailable
from labsupport.speech import segments
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.segments import FRAME, Span, SpeechDetector, find_speech, group_speech

SLOWLY = segments.RELEASES[:1]
DETECTS = pytest.mark.weights  # the packaged network of voice activity


def detect(samples: np.ndarray, *cuts: int, releases: tuple[float, ...] = segments.RELEASES) -> np.ndarray:
    """The probabilities for samples that are fed in blocks which end at `cuts`."""
    detector = SpeechDetector(releases)
    for block in np.split(samples.astype(np.float32), sorted(cuts)):
        detector.feed(block)
    return detector.finish()


def noise(seconds: float, decibels: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return (samples * 10 ** (decibels / 20)).astype(np.float32)


def share_inside(spans: list[Span], frames: np.ndarray) -> float:
    """The share of these frames' middles that lie in a span."""
    middles = frames * FRAME + FRAME // 2
    return np.mean([any(span.start <= middle < span.end for span in spans) for middle in middles])


def find_closely(samples: np.ndarray) -> list[Span]:
    """Speech with little around it, so that what is missed shows."""
    return find_speech(detect(samples), len(samples), min_silence=0.5, pad=0.1)


# --- probabilities ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    """faster-whisper's probabilities for whole samples."""
    from faster_whisper.vad import get_vad_model

    def detect_with_theirs(samples):
        frames = math.ceil(len(samples) / FRAME)
        padded = np.pad(samples, (0, (frames + 1) * FRAME - len(samples)))  # it wipes the end of its last frame
        return get_vad_model()(padded)[:frames]

    return detect_with_theirs


@DETECTS
@pytest.mark.parametrize("clip", ["jfk", "narration"])
def test_probabilities_equal_faster_whispers(clip, reference, request):
    samples = request.getfixturevalue(clip)
    samples = samples[np.argmax(np.abs(samples) > 0.1) :]  # from here on its level needs no gain
    assert np.abs(detect(samples, releases=SLOWLY) - reference(samples)).max() < 1e-5


@DETECTS
@given(st.integers(0, 5000), st.lists(st.integers(0, 200_000), max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_cut_into_blocks_gives_the_same_probabilities(jfk, dropped, cuts):
    samples = jfk[: len(jfk) - dropped]
    ours = detect(samples, *cuts)
    assert ours.shape == (math.ceil(len(samples) / FRAME),)
    assert ours.dtype == np.float32
    assert np.abs(ours - detect(samples)).max() < 1e-5


@DETECTS
def test_blocks_of_one_sample_give_the_same_probabilities(jfk):
    part = jfk[:5000]
    assert np.abs(detect(part, *range(1, 5000)) - detect(part)).max() < 1e-5


@DETECTS
def test_a_detector_is_ready_for_another_recording(jfk):
    detector = SpeechDetector()
    detector.feed(jfk)
    first = detector.finish()
    assert detector.finish().shape == (0,)
    detector.feed(jfk)
    assert np.array_equal(detector.finish(), first)


@pytest.fixture(scope="module", params=["jfk", "narration"])
def speech(request) -> tuple[np.ndarray, np.ndarray]:
    """A clip's samples, and which of its frames are surely speech."""
    samples = request.getfixturevalue(request.param)
    return samples, np.flatnonzero(detect(samples) > 0.7)


@DETECTS
@pytest.mark.parametrize("decibels", [20, -20, -40, -50, -60, -80])
def test_speech_is_found_at_any_level(speech, decibels):
    samples, frames = speech
    assert share_inside(find_closely(samples * 10 ** (decibels / 20)), frames) > 0.98


@DETECTS
@pytest.mark.parametrize("offset", [0.05, -0.4, 0.5, 0.6])
def test_speech_is_found_beside_a_large_offset(speech, offset):
    samples, frames = speech
    assert share_inside(find_closely(samples * 0.3 + offset), frames) > 0.98


@DETECTS
def test_soft_speech_is_found_beside_a_constant_offset(speech):
    samples, frames = speech
    assert share_inside(find_closely(samples * 0.01 + 0.2), frames) > 0.98


@DETECTS
def test_soft_speech_is_found_minutes_after_loud_speech(jfk):
    before = np.concatenate([jfk, noise(181, -80)])
    frames = np.flatnonzero(detect(jfk) > 0.7) + len(before) // FRAME
    assert share_inside(find_closely(np.concatenate([before, jfk * 10 ** (-50 / 20)])), frames) > 0.98


@DETECTS
@pytest.mark.parametrize("decibels", [-26, -34, -40, -46])
@pytest.mark.parametrize("pause", [0.5, 2, 10])
def test_soft_speech_is_found_soon_after_loud_speech(jfk, decibels, pause):
    before = np.concatenate([jfk, noise(pause, -80)])
    frames = np.flatnonzero(detect(jfk) > 0.7) + len(before) // FRAME
    soft = np.concatenate([before, jfk * 10 ** (decibels / 20)])
    assert share_inside(find_speech(detect(soft), len(soft)), frames) > 0.75  # not its beginning


@DETECTS
def test_a_pause_in_loud_speech_is_not_amplified(jfk, reference):
    samples = np.concatenate([jfk, noise(60, -60), jfk])[np.argmax(np.abs(jfk) > 0.1) :]
    assert np.abs(detect(samples, releases=SLOWLY) - reference(samples)).max() < 1e-5


@DETECTS
@pytest.mark.parametrize("decibels", [-45, -60, -80])
def test_a_pause_in_loud_speech_is_no_speech_where_it_is_amplified(jfk, decibels):
    samples = np.concatenate([jfk, noise(20, decibels), jfk])
    before, after = find_speech(detect(samples), len(samples))
    assert before.end < len(jfk) + SAMPLE_RATE
    assert after.start > len(samples) - len(jfk) - SAMPLE_RATE


@DETECTS
@pytest.mark.parametrize("ratio", [20, 10, 5])
def test_speech_is_found_over_noise(speech, ratio):
    samples, frames = speech
    noisy = samples + noise(len(samples) / SAMPLE_RATE, 20 * np.log10(samples.std()) - ratio)
    assert share_inside(find_closely(noisy), frames) > 0.99


@DETECTS
def test_speech_is_found_in_telephone_sound(speech):
    samples, frames = speech
    band = signal.butter(4, [300, 3400], "bandpass", fs=SAMPLE_RATE, output="sos")
    assert share_inside(find_closely(np.round(signal.sosfilt(band, samples) * 127) / 128), frames) > 0.97


@DETECTS
@pytest.mark.parametrize("decibels", [-20, -40, -60, -80, -200])
def test_noise_and_hum_are_no_speech_at_any_level(decibels):
    seconds = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 10)) * 10 ** (decibels / 20)
    for samples in (noise(20, decibels), hum):
        assert find_speech(detect(samples), len(samples)) == []


@DETECTS
@pytest.mark.parametrize("start", [0.4, 1.0, 3.6, 5.6, 8.4])
def test_speech_at_both_ends_is_inside_a_span(jfk, start):
    """Each second of the clip begins and ends within speech."""
    part = jfk[round(start * SAMPLE_RATE) :][:SAMPLE_RATE]
    assert find_speech(detect(part), len(part)) == [Span(0, len(part))]


def test_no_sound_has_no_speech():
    assert find_speech(np.empty(0, np.float32), 0) == []


# --- what may be missing ---------------------------------------------------------------------------------------------


def test_without_onnxruntime_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="--no-vad"):
        SpeechDetector()


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    def miss(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", miss)
    with pytest.raises(NotAvailable, match="--no-vad"):
        SpeechDetector()


def test_a_package_without_the_network_is_named(monkeypatch):
    monkeypatch.setattr(segments, "NETWORK", "faster_whisper/assets/other.onnx")
    with pytest.raises(NotAvailable, match=r"other\.onnx"):
        SpeechDetector()


def test_the_detector_imports_neither_faster_whisper_nor_a_framework():
    code = (
        "import sys; from labsupport.speech.segments import SpeechDetector; SpeechDetector().finish();"
        "print({'faster_whisper', 'ctranslate2', 'torch', 'mindspore'} & set(sys.modules))"
    )
    assert run_python(code) == "set()"


# --- spans -----------------------------------------------------------------------------------------------------------


@st.composite
def probabilities(draw):
    """Stretches of nearly equal probability: as random as they are, speech and silence of every length occur."""
    stretches = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60)), max_size=20))
    levels = np.repeat([level for level, _ in stretches], [count for _, count in stretches])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.clip(levels + rng.uniform(-0.15, 0.15, len(levels)), 0, 1).astype(np.float32)


milliseconds = st.integers(0, 3000)


@pytest.mark.weights  # faster-whisper brings CTranslate2
@given(
    probabilities().filter(len),
    st.integers(1, FRAME - 1),
    st.floats(0.2, 0.9),
    milliseconds,
    milliseconds,
    milliseconds,
    st.one_of(st.just(math.inf), st.integers(1, 40)),
)
@settings(max_examples=300, deadline=None)
def test_spans_equal_faster_whispers(chances, rest, threshold, min_speech, min_silence, pad, longest):
    from faster_whisper import vad

    samples = (len(chances) - 1) * FRAME + rest
    ours = find_speech(
        chances, samples, threshold, None, min_speech / 1000, min_silence / 1000, pad / 1000, longest=longest
    )
    options = vad.VadOptions(threshold, None, min_speech, longest, min_silence, pad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vad, "get_vad_model", lambda: lambda audio: chances.tolist())
        theirs = vad.get_speech_timestamps(np.zeros(samples, np.float32), options)
    assert [(span.start, span.end) for span in ours] == [(each["start"], each["end"]) for each in theirs]


@given(probabilities(), st.floats(0.05, 0.95), st.floats(0, 3), st.floats(0, 3), st.floats(0, 3), st.floats(0.1, 40))
@settings(deadline=None)
def test_spans_are_in_order_without_overlap_inside_the_recording(chances, threshold, speech, silence, pad, longest):
    samples = len(chances) * FRAME
    spans = find_speech(chances, samples, threshold, min_speech=speech, min_silence=silence, pad=pad, longest=longest)
    edges = [0, *[edge for span in spans for edge in (span.start, span.end)], samples]
    assert edges == sorted(edges)
    assert all(span.start < span.end for span in spans)


@given(probabilities(), st.floats(0.05, 0.95))
@settings(deadline=None)
def test_no_frame_of_speech_is_left_out_by_default(chances, threshold):
    spans = find_speech(chances, len(chances) * FRAME, threshold)
    speech = np.flatnonzero(chances >= threshold)
    assert not len(speech) or share_inside(spans, speech) == 1.0


@given(probabilities(), st.floats(2, 20))
@settings(deadline=None)
def test_no_span_is_longer_than_the_longest(chances, longest):
    spans = find_speech(chances, len(chances) * FRAME, min_silence=0.3, pad=0.1, longest=longest)
    assert all(span.end - span.start <= longest * SAMPLE_RATE + FRAME for span in spans)


def test_a_short_silence_is_part_of_the_speech_and_a_long_one_is_not():
    chances = np.repeat([0.0, 0.9, 0.0, 0.9, 0.0, 0.9], [100, 50, 50, 50, 100, 50]).astype(np.float32)
    spans = find_speech(chances, 400 * FRAME, pad=0.0)
    assert spans == [Span(100 * FRAME, 250 * FRAME), Span(350 * FRAME, 400 * FRAME)]


def test_neighbours_merge_over_short_pauses_up_to_the_longest():
    second = SAMPLE_RATE
    spans = [Span(0, second), Span(2 * second, 3 * second), Span(5 * second, 6 * second), Span(7 * second, 9 * second)]
    assert group_speech(spans, gap=1.0) == [Span(0, 3 * second), Span(5 * second, 9 * second)]
    assert group_speech(spans, gap=2.0, longest=6.0) == [Span(0, 6 * second), Span(7 * second, 9 * second)]
    assert group_speech([], gap=1.0) == []


@given(probabilities(), st.floats(0, 10), st.floats(1, 40))
@settings(deadline=None)
def test_a_group_begins_only_where_the_pause_or_the_group_would_be_too_long(chances, gap, longest):
    spans = find_speech(chances, len(chances) * FRAME, min_silence=0.2, pad=0.05)
    groups = group_speech(spans, gap, longest)
    members = [[span for span in spans if group.start <= span.start < group.end] for group in groups]
    assert [span for inside in members for span in inside] == spans
    assert groups == [Span(inside[0].start, inside[-1].end) for inside in members]
    for before, after in itertools.pairwise(members):
        pause, whole = after[0].start - before[-1].end, after[0].end - before[0].start
        assert pause > gap * SAMPLE_RATE or whole > longest * SAMPLE_RATE
