"""Scores against jiwer's own word error rate, and planted skippers: whoever leaves work out is found."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.engine.race.judging import Score, find_fault, find_impossible, score, set_bar
from labsupport.engine.race.sounds import Sound

SAID = " ".join(f"sentence {letter} says that {letter}x comes before {letter}y." for letter in "abcdefghijklmnop")
WORDS = SAID.split()
BAR = Score(wer=0.02, word_count=len(WORDS), said=len(WORDS), lost=1)


def make_sound(*texts: str) -> Sound:
    return Sound("planted", [np.zeros(1, np.float32)] * len(texts), list(texts), 1.0)


def judge(text: str) -> str | None:
    return find_fault(score(make_sound(SAID), [text]), BAR)


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), min_size=1, max_size=12),
       st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), max_size=12))  # fmt: skip
def test_the_error_rate_is_jiwers(said, found):
    result = score(make_sound(" ".join(said)), [" ".join(found)])
    assert result.wer == pytest.approx(jiwer.wer(" ".join(said), " ".join(found)))
    assert result.word_count == len(found)


def test_clips_are_scored_clip_by_clip():
    sound = make_sound("alpha beta gamma delta", "epsilon zeta")
    assert score(sound, ["Alpha, beta, gamma, delta!", "epsilon zeta"]) == Score(0.0, 6, 6, 0)
    swapped = score(sound, ["epsilon zeta", "alpha beta gamma delta"]).wer
    assert swapped == pytest.approx(8 / 6)  # nothing is right: four words for two, two for four
    assert score(sound, ["alpha beta gamma delta", ""]) == Score(2 / 6, 4, 6, 2)


def test_honest_work_with_a_few_errors_counts():
    assert judge(SAID) is None
    assert judge(" ".join(["wrong", *WORDS[1:40], *WORDS[42:]])) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" ".join(WORDS[:30] + WORDS[60:]), "word error rate"),  # a window is dropped
        (" ".join(WORDS[:-20]), "word error rate"),  # it returns early
        (" ".join(WORDS[:-5]), "words"),  # only the last short window
        ("", "word error rate"),
        (" ".join(WORDS[:6]), "word error rate"),
        (" ".join([*WORDS, *WORDS[-30:]]), "word error rate"),  # it repeats itself
        (" ".join(WORDS[40:80] + WORDS[:40] + WORDS[80:]), "word error rate"),  # windows in a wrong order
        (" ".join([*WORDS[:50], *["um", "er"] * 2, "so", *WORDS[55:]]), None),  # five words are others: no work is lost
    ],
)
def test_a_skipper_is_found(text, why):
    fault = judge(text)
    assert (fault is None) == (why is None)
    if why:
        assert why in fault


def test_a_skipper_that_makes_up_for_the_count_of_words_is_found_by_what_it_leaves_out():
    found = Score(wer=0.06, word_count=BAR.word_count, said=BAR.said, lost=7)
    assert find_fault(found, BAR) == "it leaves out 7 words in a row"


def test_a_reference_that_invents_text_neither_condemns_the_others_nor_lets_skippers_through():
    honest, skips = Score(0.03, 1000, 1000, 1), Score(0.25, 750, 1000, 80)
    invents = Score(0.4, 1400, 1000, 0)
    bar = set_bar(invents, [invents, honest, honest, skips])
    assert find_fault(honest, bar) is None
    assert "25.0%" in find_fault(skips, bar)
    assert "40.0%" in find_fault(invents, bar)


def test_what_the_reference_loses_over_pauses_others_may_lose_too():
    sequential, batched = Score(0.084, 990, 1000, 10), Score(0.065, 1005, 1000, 0)
    bar = set_bar(sequential, [sequential, batched, batched])
    assert find_fault(sequential, bar) is find_fault(batched, bar) is None
    assert find_fault(Score(0.09, 985, 1000, 25), bar) == "it leaves out 25 words in a row"


def test_the_bar_of_a_reference_that_skips_is_the_middle_of_the_field():
    honest, skips = Score(0.03, 1000, 1000, 1), Score(0.25, 750, 1000, 80)
    bar = set_bar(skips, [skips, honest])
    assert find_fault(honest, bar) is None
    assert find_fault(skips, bar)


def test_a_time_below_what_the_arithmetic_takes_is_impossible():
    assert find_impossible(0.5, least=0.4) is None
    assert "0.3 s" in find_impossible(0.3, least=0.4)
