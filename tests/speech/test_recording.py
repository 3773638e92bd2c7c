"""A recording's log-mel and speech: the same for any blocks, and only what holds speech."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.speech import audio, features
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.recording import Recording, analyse
from labsupport.speech.segments import Span
from labsupport.speech.text import Segment, Word

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.read(audio.clip("jfk").path)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.mark.parametrize("vad", [False, True])
def test_blocks_of_any_length_give_what_the_whole_gives(speech, vad):
    samples = np.concatenate([speech, silence(12), speech])
    whole = analyse(samples, 80, vad)
    for size in (1000, 16_000, 500_000):
        blocks = analyse((samples[i : i + size] for i in range(0, len(samples), size)), 80, vad)
        assert (blocks.speech, blocks.pauses, blocks.samples) == (whole.speech, whole.pauses, whole.samples)
        for window in whole.windows():
            np.testing.assert_allclose(blocks.window(window), whole.window(window), atol=1e-5)


def test_without_a_detector_all_of_it_counts_as_speech(speech):
    recording = analyse(speech, 80, vad=False)
    assert recording.speech == (Span(0, len(speech) // 160),)
    assert recording.seconds == pytest.approx(11.0)
    mel = features.window(features.log_mel(speech), 0)
    np.testing.assert_allclose(recording.window(recording.windows()[0]), mel, atol=1e-5)


def test_silence_is_cut_out_and_times_are_given_back(speech):
    recording = analyse(np.concatenate([speech, silence(20), speech, silence(1), speech]), 80, vad=True)
    first, second = recording.speech
    assert 9.5 < first.end / 100 < 12
    assert 30.5 < second.start / 100 < 32
    assert 52 < second.end / 100 < 54.1
    assert recording.frames == first.end - first.start + second.end - second.start
    before, after = recording.joints[1] / 100 - 0.5, recording.joints[1] / 100 + 0.5
    assert recording.restore(Segment(0, before, "a"))[0].end == pytest.approx(first.end / 100 - 0.5, abs=0.011)
    assert recording.restore(Segment(after, after + 1, "b"))[0].start == pytest.approx(
        second.start / 100 + 0.5, abs=0.011
    )


def test_a_segment_that_silence_interrupts_is_divided_there(speech):
    recording = analyse(np.concatenate([speech, silence(20), speech]), 80, vad=True)
    joint = recording.joints[1] / 100
    timings = [Word(joint - 2, joint - 1, " one", 1.0), Word(joint - 1, joint + 0.2, " two.", 1.0),
               Word(joint + 0.3, joint + 1, " Three", 1.0)]  # fmt: skip
    segment = Segment(joint - 2, joint + 1, " one two. Three", tuple(timings))
    assert recording.crosses_joint(segment.start, segment.end)
    first, second = recording.restore(segment)
    assert (first.text, second.text) == (" one two.", " Three")
    assert first.end == recording.speech[0].end / 100  # what the word had on the other side is not its own
    assert second.start > 30
    late = replace(segment, word_timings=tuple(timings[:2]), text=" one two.", end=joint + 0.3)
    assert [(part.text, part.end) for part in recording.restore(late)] == [(" one two.", first.end)]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1, max_size=6), st.data())
def test_restored_times_are_in_order_and_inside_of_speech(lengths, data):
    spans, end = [], 0
    for gap, length in lengths:
        spans.append(Span(end + gap + 1, end + gap + 1 + length))
        end = spans[-1].end
    recording = Recording(None, tuple(spans), (), 160 * end)
    moments = st.lists(st.integers(0, recording.frames), min_size=2, max_size=8)
    times = sorted(moment / 100 for moment in data.draw(moments))
    restored = [part for a, b in itertools.pairwise(times) for part in recording.restore(Segment(a, b, "x"))]
    seconds = [time for part in restored for time in (part.start, part.end)]
    assert seconds == sorted(seconds)
    assert all(
        any(span.start <= 100 * time + 1e-6 and 100 * time - 1e-6 <= span.end for span in spans) for time in seconds
    )


def test_windows_are_at_most_30_s_cover_all_speech_and_end_at_pauses(speech):
    recording = analyse(np.concatenate([speech, silence(0.5)] * 8), 80, vad=True)
    windows = recording.windows()
    assert [windows[0].start, *(window.end for window in windows)] == [
        *(window.start for window in windows),
        recording.frames,
    ]
    assert all(0 < window.end - window.start <= WINDOW_FRAMES for window in windows)
    assert len(windows) >= 3
    assert all(window.end in recording.pauses for window in windows[:-1])


@given(st.data())
def test_short_windows_end_at_silence_where_they_are_half_full(data):
    spans, end = [], 0
    for length in data.draw(st.lists(st.integers(1, 4000), min_size=1, max_size=8)):
        spans.append(Span(end + 200, end + 200 + length))
        end += 200 + length
    recording = Recording(None, tuple(spans), (), 160 * end)
    pauses = tuple(sorted(data.draw(st.sets(st.integers(1, recording.frames), max_size=12))))
    recording = replace(recording, pauses=pauses)
    windows, joints = recording.windows(1500, at_silence=True), recording.joints.tolist()
    assert [0, *(window.end for window in windows)] == [*(window.start for window in windows), recording.frames]
    for window in windows:
        assert 0 < window.end - window.start <= 1500
        late = [joint for joint in joints if window.start + 750 < joint <= window.start + 1500]
        inside = [pause for pause in pauses if window.start < pause <= window.start + 1500]
        if late:
            assert window.end == max(late)
        elif window.start + 1500 < recording.frames:
            assert window.end == max(inside, default=window.start + 1500)


def test_loud_windows_leave_out_silence_and_spread_over_the_rest(speech):
    minute = np.tile(speech, 6)[: 60 * RATE]
    recording = analyse(np.concatenate([silence(60), minute, minute, silence(30)]), 80, vad=False)
    assert [window.start for window in recording.loud_windows(3)] == [6000, 12000, 15000]
    assert [window.start for window in recording.loud_windows(1)] == [6000]
    assert len(recording.loud_windows(9)) == 4


@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_where_nobody_speaks_there_is_no_window(level):
    noise = np.random.default_rng(0).normal(0, 1, 20 * RATE).astype(np.float32) * np.float32(level)
    recording = analyse(noise, 80, vad=True)
    assert recording.windows() == recording.loud_windows(3) == []


def test_a_window_is_blank_where_log_mel_holds_nothing(speech):
    quiet = np.full(30 * RATE, 1 / 32768, np.float32) * np.sign(np.sin(np.arange(30 * RATE))).astype(np.float32)
    recording = analyse(np.concatenate([speech, silence(49), quiet]), 80, vad=False)
    assert [recording.is_blank(window) for window in recording.windows()] == [False, True, True]
    assert analyse(silence(30), 80, vad=False).is_blank(Span(0, 3000))
    # alone, the same sound is not 80 dB under anything
    assert not analyse(quiet, 80, vad=False).is_blank(Span(0, 3000))


def test_a_single_sample_is_a_recording(speech):
    recording = analyse(speech[:1], 80, vad=False)
    assert recording.windows() == [Span(0, 1)]
    assert recording.window(Span(0, 1)).shape == (80, 3000)
