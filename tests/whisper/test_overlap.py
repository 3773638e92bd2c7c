"""Windows that overlap: they leave no frame out, and their texts are merged as transformers merges them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.speech import audio, text
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.whisper.overlap import merge, overlapping_windows, transcribe_overlapping

TOKENS = st.lists(st.integers(0, 4), max_size=12)  # few kinds, so that much agrees by chance


@given(st.lists(TOKENS, min_size=1, max_size=5))
def test_texts_are_merged_as_in_transformers(texts):
    from transformers.models.whisper.tokenization_whisper import _find_longest_common_sequence

    assert merge(texts) == _find_longest_common_sequence(texts)


def test_what_both_windows_say_is_written_once_and_a_wrong_edge_is_left_out():
    said = list(range(100, 160))
    left, right = [*said[:39], 7], [8, *said[31:]]  # each is wrong where it was cut
    assert merge([left, right]) == said
    assert merge([said[:30], said[30:]]) == said  # nothing in common: nothing is lost
    assert merge([said, []]) == merge([[], said]) == said
    assert merge([]) == []


@given(st.integers(1, 40_000), st.floats(0, 14))
def test_every_frame_is_in_a_window_and_neighbours_share_two_strides(frames, stride):
    windows = overlapping_windows(frames, stride)
    assert windows[0].start == 0
    assert windows[-1].end == frames
    assert all(0 < window.end - window.start <= WINDOW_FRAMES for window in windows)
    shared = {before.end - after.start for before, after in itertools.pairwise(windows)}
    assert shared <= {round(200 * stride)}
    assert sum(window.end == frames for window in windows) == 1  # no window lies inside of another


@pytest.mark.weights
@pytest.mark.slow
def test_the_narration_comes_out_whole_in_blocks_and_batches(tiny, narration):
    blocks = (narration[start : start + 100_000] for start in range(0, len(narration), 100_000))
    found = transcribe_overlapping(tiny.ours, blocks, batch=4)
    assert text.wer(audio.clip("narration").text, found) < 0.1
    assert found.endswith(" astounding.")


@pytest.mark.weights
def test_blocks_and_batches_change_no_text(tiny, jfk):
    sound = np.tile(jfk, 3)
    one = transcribe_overlapping(tiny.ours, sound)
    assert transcribe_overlapping(tiny.ours, np.array_split(sound, 7), batch=2) == one
