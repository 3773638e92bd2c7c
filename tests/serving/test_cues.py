"""Subtitles: no letter is lost, times are in order, and none is longer than it must be."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from labsupport.serving.cues import LONGEST_SECONDS, LONGEST_TEXT, cut_into_cues
from labsupport.speech.text import Segment, Word


def segment_of(*said: tuple[str, float]) -> Segment:
    """Words with their lengths in seconds, one after the other."""
    ends = list(itertools.accumulate(seconds for _, seconds in said))
    timings = tuple(Word(end - seconds, end, text, 0.5) for (text, seconds), end in zip(said, ends, strict=True))
    return Segment(0.0, ends[-1] if ends else 0.0, "".join(text for text, _ in said), timings, -0.5, 1.5, 0.1, 0.2)


def texts(segment: Segment) -> list[str]:
    return [cue.text for cue in cut_into_cues(segment)]


def test_a_sentence_is_a_cue():
    said = segment_of((" One", 1), (' two."', 1), (" Three", 1), (" four!", 1), (" five", 1))
    assert texts(said) == [' One two."', " Three four!", " five"]


def test_a_very_short_sentence_stays_with_the_next():
    assert texts(segment_of((" No.", 0.4), (" Never", 0.5), (" again.", 0.5))) == [" No. Never again."]


def test_without_times_it_stays_whole():
    plain = Segment(0.0, 30.0, "One. Two.")
    assert cut_into_cues(plain) == [plain]


def test_a_long_sentence_is_cut_at_its_last_comma_or_longest_pause():
    commas = segment_of(*[(" one", 1)] * 3, (" two,", 1), *[(" three", 1)] * 5)
    assert texts(commas)[0] == " one one one two,"
    timings = [*segment_of(*[(" one", 1)] * 4).word_timings, *(Word(4.4 + n, 5.4 + n, " two", 0.5) for n in range(5))]
    assert texts(Segment(0.0, 9.4, "", tuple(timings)))[0] == " one one one one"


@given(st.lists(st.tuples(st.sampled_from([" a", " bcd.", " e,", "。", " longer", "!"]), st.floats(0, 3)), max_size=60))
def test_nothing_is_lost_and_all_fits(said):
    segment = segment_of(*said)
    cues = cut_into_cues(segment)
    assert "".join(cue.text for cue in cues) == segment.text
    assert sum((cue.word_timings for cue in cues), ()) == segment.word_timings
    assert all(first.end <= second.start + 1e-9 for first, second in itertools.pairwise(cues))
    for cue in cues:
        assert cue.end - cue.start <= LONGEST_SECONDS or len(cue.word_timings) == 1
        assert len(cue.text) <= LONGEST_TEXT
        assert cue.avg_logprob == segment.avg_logprob
