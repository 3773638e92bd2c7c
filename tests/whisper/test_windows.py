"""Segments of a window: cut as transformers cuts them, and placed in order inside the recording."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import TIMESTAMP_RULES
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from labsupport.speech.segments import Span
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.windows import count_frames, cut_segments, move_to_pause, place_segments


@pytest.mark.parametrize(
    ("seconds", "silence", "frames"), [(3.0, 2.0, 500), (3.003, 0, 300), (29, 2, 3000), (90, 2, 3000)]
)
def test_frames_are_even_and_fit_the_window(seconds, silence, frames):
    assert count_frames(seconds, silence) == frames


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
        if len(segments) > 1:  # where no two timestamps meet, theirs starts at 0, whatever the first timestamp says
            assert 0.02 * start == pytest.approx(float(segment["start"]))
        # transformers derives an end without a timestamp in floating point, and may lose one step of 0.02 s
        stamps = [token for token in tokens if token >= 61]
        slack = 1e-6 if stamps and stamps[-1] > 61 else 0.0201
        assert 0.02 * end == pytest.approx(float(segment["end"]), abs=slack)
        assert [t for t in part if t < 61] == [t for t in segment["tokens"].tolist() if t < 61]


def test_a_window_s_only_segment_starts_at_its_timestamp():
    assert cut_segments([61 + 10, 5, 6, 61 + 25], TIMESTAMP_RULES, 3000)[0] == [(10, 25, [71, 5, 6, 86])]
    assert cut_segments([5, 6], TIMESTAMP_RULES, 100)[0] == [(0, 50, [5, 6])]


@pytest.mark.parametrize(
    ("frame", "after", "expected"),
    [
        (2900, 0, 2975),
        (2850, 0, 2850),  # too far from both
        (1090, 0, 1065),
        (1120, 0, 1150),
        (1070, 1065, 1150),  # a window does not begin where the one before did
        (1070, 1150, 1070),
    ],
)
def test_a_window_begins_at_the_nearest_pause(frame, after, expected):
    assert move_to_pause(frame, (239, 1065, 1150, 2975), after) == expected


class Letters:
    @staticmethod
    def decode(tokens):
        return "".join(chr(97 + token) for token in tokens)


cuts = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500), st.lists(st.integers(0, 9))), max_size=5)


@given(cuts, st.integers(0, 10_000), st.integers(1, 3000), st.floats(0, 130))
def test_segments_lie_in_the_window_in_order_and_none_is_empty(cut, start, frames, after):
    window = Span(start, start + frames)
    after = min(after, window.end / 100)
    quality = Hypothesis([], -0.3, 0.2, 0.4, 1.5)
    segments = place_segments(cut, window, after, quality, Letters, TIMESTAMP_RULES)
    assert [s.text for s in segments] == [Letters.decode(tokens) for _, _, tokens in cut if tokens]
    times = [round(after, 2), *(time for s in segments for time in (s.start, s.end)), window.end / 100]
    assert times == sorted(times)
    assert all((s.avg_logprob, s.no_speech_prob, s.temperature, s.compression_ratio) == (-0.3, 0.2, 0.4, 1.5)
               for s in segments)  # fmt: skip
