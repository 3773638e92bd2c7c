"""The guards: which text fails, what is tried next, and what is taken in the end."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scripted_model import ScriptedModel, says
from small_model import RULES

from labsupport.base.errors import WhisperError
from labsupport.speech import audio
from labsupport.whisper.guards import NO_GUARDS, GuardedDecoder, Guards, compression_ratio, parse_temperatures
from labsupport.whisper.search import Hypothesis

ENCODER_OUT = np.zeros((1, 2, 3), np.float32)
LIKELY, UNLIKELY, REPEATED = (-0.3, 1.5), (-1.4, 1.5), (-0.2, 5.0)


class Letters:
    sot_prev = 57

    @staticmethod
    def decode(tokens):
        return "".join(chr(97 + token % 26) for token in tokens)


@dataclass
class Scripted(GuardedDecoder):
    """Gives what the script has for each temperature: (avg_logprob, compression_ratio)."""

    script: dict = field(default_factory=dict)
    tried: list = field(default_factory=list)

    def decode_at(self, temperature, encoder_out, prompt):
        self.tried.append(temperature)
        logprob, ratio = self.script[temperature]
        return [Hypothesis([int(10 * temperature)], logprob, 0.1, temperature, ratio, ratio > 2.4) for _ in encoder_out]


def scripted(*outcomes, **guards) -> Scripted:
    temperatures = tuple(i / 10 for i in range(len(outcomes)))
    guards = Guards(temperatures=temperatures, **guards)
    script = dict(zip(temperatures, outcomes, strict=True))
    return Scripted(ScriptedModel(None), Letters, RULES, [1], guards=guards, script=script)


def test_the_compression_ratio_is_openai_s():
    text = "You can't compress this sentence. " * 7 + "ä"
    assert compression_ratio(text) == len(text.encode("utf-8")) / len(zlib.compress(text.encode("utf-8")))
    assert compression_ratio("Ask what you can do for your country.") < 1.5 < 2.4 < compression_ratio("you " * 30)


def test_what_is_said_twice_is_no_loop_and_what_is_said_ten_times_is_one():
    sentence = f"{audio.clip('jfk').text} "
    assert compression_ratio(sentence * 2) > Guards().compression_ratio_threshold
    assert not Guards().repeats(sentence * 2)
    assert not Guards().repeats("")
    for text in (sentence * 10, "you " * 40):
        assert Guards().repeats(text)
        assert not NO_GUARDS.repeats(text)


def test_what_is_said_twice_has_rounds():
    once, twice = (
        Hypothesis([], -0.1, 0.1, compression_ratio=compression_ratio(f"{audio.clip('jfk').text} " * n)) for n in (1, 2)
    )
    assert Guards().has_rounds(twice)
    assert not Guards().has_rounds(once)
    assert not NO_GUARDS.has_rounds(twice)


def test_a_long_sentence_s_loop_is_seen_though_it_was_stopped_early():
    loop = list(range(20)) * 4
    decoder = GuardedDecoder(ScriptedModel(says(loop)), Letters, RULES, [1])
    judged = decoder.judge(Hypothesis(loop, -0.1, 0.1), 0.0)
    assert judged.repeats
    assert not Guards().repeats(Letters.decode(loop))


def test_a_text_that_passes_is_taken_at_once():
    decoder = scripted(LIKELY, LIKELY)
    assert decoder.decode(ENCODER_OUT)[0].temperature == 0
    assert decoder.tried == [0.0]


@pytest.mark.parametrize("failed", [UNLIKELY, REPEATED])
def test_a_text_that_fails_is_decoded_again_until_one_passes(failed):
    decoder = scripted(failed, UNLIKELY, LIKELY, LIKELY)
    assert decoder.decode(ENCODER_OUT)[0].temperature == 0.2
    assert decoder.tried == [0.0, 0.1, 0.2]


def test_only_the_window_that_failed_is_decoded_again():
    class FirstFails(Scripted):
        def decode_at(self, temperature, encoder_out, prompt):
            self.tried.append((temperature, len(encoder_out)))
            logprobs = [-1.5, -0.2] if temperature == 0 else [-0.4]
            return [Hypothesis([1], logprob, 0.1, temperature, 1.0) for logprob in logprobs]

    decoder = FirstFails(ScriptedModel(None), Letters, RULES, [1])
    assert [h.temperature for h in decoder.decode(np.zeros((2, 2, 3), np.float32))] == [0.2, 0.0]
    assert decoder.tried == [(0.0, 2), (0.2, 1)]


def test_if_all_fail_the_likeliest_without_repetitions_is_taken_and_given_to_no_other_window():
    decoder = scripted((-0.1, 5.0), (-1.6, 1.4), (-1.2, 1.4), (-2.0, 1.4), condition_on_previous_text=True)
    chosen = decoder.decode(ENCODER_OUT)[0]
    assert (chosen.avg_logprob, chosen.tokens) == (-1.2, [2])
    assert chosen.temperature == 0.3


def test_if_all_repeat_themselves_the_loop_is_cut_to_its_first_round():
    loop = [7, 8, 9] + [1, 2, 3] * 40
    model = ScriptedModel(says(loop))
    found = GuardedDecoder(model, Letters, RULES, [1], guards=Guards(temperatures=(0.0, 0.2), best_of=2)).decode(
        ENCODER_OUT
    )
    assert found[0].tokens == [7, 8, 9, 1, 2, 3]


def test_silence_is_no_failure_and_thresholds_can_be_turned_off():
    silent = Hypothesis([1], -1.5, 0.9, 0.0, 1.0)
    assert Guards().is_silence(silent)
    assert not Guards().fails(silent)
    assert Guards().fails(replace(silent, no_speech_prob=0.5))
    assert not Guards().is_silence(replace(silent, avg_logprob=-0.9)), "speech in noise is like that"
    assert Guards().is_silence(replace(silent, avg_logprob=-0.9, repeats=True)), "noise is like that"
    for hypothesis in (silent, Hypothesis([1], -9.0, 0.5)):
        assert not NO_GUARDS.fails(hypothesis)
        assert not NO_GUARDS.is_silence(hypothesis)


def test_each_threshold_decides_on_its_own():
    for repeats, logprob in itertools.product((False, True), (-0.9, -1.1)):
        hypothesis = Hypothesis([1], logprob, 0.0, repeats=repeats)
        assert Guards().fails(hypothesis) == (repeats or logprob < -1.0)
        assert Guards(logprob_threshold=None).fails(hypothesis) == repeats


@pytest.mark.parametrize(
    ("temperature", "condition", "no_speech", "expected"),
    [(0.0, True, 0.1, [4, 5, 6]), (0.6, True, 0.1, []), (0.0, False, 0.1, []), (0.0, True, 0.9, [4])],
)
def test_what_the_next_window_is_given(temperature, condition, no_speech, expected):
    decoder = scripted(LIKELY, condition_on_previous_text=condition)
    hypothesis = Hypothesis([5, 6, 7], -1.1, no_speech, temperature, 1.0)
    assert decoder.next_context([4], hypothesis, [(0, 1, [5, 6])]) == expected


@pytest.mark.parametrize("given", ["", "nan", "inf", "-1", "0,,1", ",".join(["0.1"] * 101)], ids=lambda text: text[:9])
def test_what_are_no_temperatures_or_too_many_is_refused_in_a_line(given):
    with pytest.raises(WhisperError, match="no temperatures") as caught:
        parse_temperatures(given)
    assert len(caught.value.what) < 200
