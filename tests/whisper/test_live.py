"""Live text: stable words never change, are those on which two steps agree, and are in the end what was said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.speech import audio, text
from labsupport.speech.live_sound import play
from labsupport.speech.text import Segment, Word
from labsupport.whisper.live import FULL, Agreement, LiveTranscriber, join, spelled, transcribe_live

RATE = audio.SAMPLE_RATE


def say(*said: str, start: float = 0.0) -> list[Word]:
    """A word a second."""
    return [Word(start + i, start + i + 0.8, f" {each}", 1.0) for i, each in enumerate(said)]


HYPOTHESES = st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=8)


@given(HYPOTHESES)
def test_stable_words_only_grow_and_two_steps_in_a_row_have_each(hypotheses):
    agreement, before, last = Agreement(), [], []
    for said in hypotheses:
        words = say(*said)
        new = agreement.update(words)
        assert agreement.stable == before + new
        for word in new:  # at the same place after what was stable
            assert word in words
            assert spelled(word) in last
        before, last = list(agreement.stable), said


def test_the_common_beginning_of_two_steps_is_stable_whatever_their_case_and_marks():
    agreement = Agreement()
    assert agreement.update(say("And", "so,", "my", "fell")) == []
    assert join(agreement.update(say("and", "so", "my", "fellow", "Amer"))) == "and so my"
    assert join(agreement.update(say("And", "so,", "my", "fellow", "Americans"))) == "fellow"
    assert join(agreement.stable) == "and so my fellow"  # as it was shown, and not as it is said later
    assert join(agreement.pending) == "Americans"


def test_words_that_are_said_again_after_a_cut_are_left_out():
    agreement = Agreement(stable=say("ask", "not", "what"))
    again = [Word(2.75, 2.9, " Not", 1.0), Word(2.9, 3.0, " what", 1.0), *say("your", start=3.0)]
    agreement.update(again)
    assert join(agreement.update(again)) == "your"


class Scripted:
    """Says a word for each whole second of sound; the last one is wrong until more follows. `changing` never agrees."""

    def __init__(self, changing: bool = False):
        self.changing, self.calls, self.longest = changing, 0, 0.0

    def transcribe(self, samples, language, **options):
        self.calls += 1
        self.longest = max(self.longest, len(samples) / RATE)
        seconds = [int(samples[i * RATE]) for i in range(len(samples) // RATE)]
        words = say(*(f"w{second}{'x' * self.calls if self.changing else ''}" for second in seconds))
        if words and not self.changing:
            words[-1] = Word(words[-1].start, words[-1].end, f" wrong{self.calls}", 0.1)
        return SimpleNamespace(segments=[Segment(0, 1, "", tuple(words))])


@pytest.mark.parametrize("changing", [False, True])
def test_the_sound_that_is_held_has_an_end_and_no_word_is_lost(changing):
    sound = np.repeat(np.arange(120, dtype=np.float32), RATE)
    model = Scripted(changing)
    live = LiveTranscriber(model)
    updates = list(transcribe_live(live, np.split(sound, 120)))
    assert model.longest <= FULL + 1
    said = [shown.word.text.strip() for update in updates for shown in update.stable]
    if not changing:
        assert said[:-1] == [f"w{i}" for i in range(len(said) - 1)]
        assert said[-1].startswith("wrong")
    assert len(said) > 115


def test_latency_counts_from_the_end_of_a_word_by_the_clock_that_is_given():
    times = iter([10.0, 11.0, 12.0])
    live = LiveTranscriber(Scripted(), clock=lambda: next(times))
    sound = np.repeat(np.arange(3, dtype=np.float32), RATE)
    live.update(sound[: 2 * RATE])  # w0 wrong
    (shown,) = live.update(sound[2 * RATE :]).stable  # w0 w1 wrong
    assert (shown.word.text, shown.first, shown.stable) == (" w0", pytest.approx(9.2), pytest.approx(10.2))


def test_silence_is_forgotten():
    model = SimpleNamespace(transcribe=lambda *a, **k: SimpleNamespace(segments=[]))
    live = LiveTranscriber(model)
    for _ in range(10):
        live.update(np.zeros(RATE, np.float32))
    assert len(live.sound) <= 3 * RATE
    assert live.fed == 10


@pytest.mark.weights
@pytest.mark.slow
def test_a_speech_that_is_played_comes_out_stable_and_right(tiny, jfk):
    live = LiveTranscriber(tiny.ours, "en")
    clock = SimpleNamespace(now=0.0)
    pieces = play([jfk], 2.0, 1.0, lambda: clock.now, lambda seconds: setattr(clock, "now", clock.now + seconds))
    shown = []
    for update in transcribe_live(live, pieces):
        assert join(live.agreement.stable).startswith(join([each.word for each in shown]))
        shown += update.stable
    said = join([each.word for each in shown])
    assert text.wer(audio.clip("jfk").text, said) < 0.1
    assert all(each.first <= each.stable for each in shown)
    assert max(each.stable for each in shown) < 9
