"""Long-form transcription against transformers, and on silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import long_recording
import numpy as np
import pytest
from scripted_model import ScriptedModel
from small_model import TIMESTAMP_RULES

from labsupport.base.errors import WhisperError
from labsupport.base.paths import ROOT
from labsupport.speech import audio, text
from labsupport.speech.features import LogMel
from labsupport.speech.recording import analyse
from labsupport.whisper import transcribe
from labsupport.whisper.guards import GuardedDecoder, Guards
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.transcribe import decode_in_batches


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seconds", "most"),
    [("tiny.en", 91, 0.08), ("base", 40, None), pytest.param("base", 91, 0.04, marks=pytest.mark.soak)],
)
def test_long_form_segments_equal_transformers(request, narration, name, seconds, most):
    narration = narration[: seconds * audio.SAMPLE_RATE]
    pair = request.getfixturevalue(name.removesuffix(".en"))
    found = pair.ours.transcribe(narration)
    inputs = pair.processor(
        narration, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    options = {"language": "en"} if pair.ours.model.config.multilingual else {}
    theirs = pair.theirs.generate(**inputs, return_timestamps=True, return_segments=True, **options)["segments"][0]
    eot, decode = pair.ours.rules.eot, pair.ours.tokenizer.decode
    assert [s.text for s in found.segments] == [
        decode([t for t in s["tokens"].tolist() if t < eot]).strip() for s in theirs
    ]
    assert [s.start for s in found.segments] == pytest.approx([float(s["start"]) for s in theirs], abs=0.011)
    ends = [min(float(s["end"]), found.duration) for s in theirs]  # ours lie within the file
    assert [s.end for s in found.segments] == pytest.approx(ends, abs=0.011)
    if most is not None:  # a part has no text of its own to compare with
        assert text.wer(audio.clip("narration").text, found.text) <= most


@pytest.mark.weights
@pytest.mark.slow
def test_jfk_comes_out_word_for_word(pair, jfk):
    assert text.wer(audio.clip("jfk").text, pair.ours.transcribe(jfk).text) == 0


@pytest.mark.weights
@pytest.mark.slow
def test_windows_in_batches_lose_little(tiny, narration):
    found = tiny.ours.transcribe(narration, batch=4)
    assert text.wer(audio.clip("narration").text, found.text) < 0.1
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)
    assert found.segments[-1].end > 85


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("beams", "times"), [(5, 3), (1, 6)])
def test_windows_in_batches_say_no_round_more_than_the_speaker(tiny, jfk, beams, times):
    found = tiny.ours.transcribe(np.tile(jfk, times), beams=beams, batch=4, vad=True)
    assert text.wer(audio.clip("jfk").text * times, found.text) < 0.02


@pytest.mark.weights
@pytest.mark.parametrize(("longest", "times"), [(10.0, 1), (12.0, 0)])
def test_only_a_long_recording_has_freed_memory_given_back(tiny, jfk, monkeypatch, longest, times):
    called = []
    monkeypatch.setattr(transcribe, "LONG", longest)  # the clip has 11 s
    monkeypatch.setattr(transcribe, "take_fresh_blocks", lambda: called.append(1))
    tiny.ours.transcribe(jfk)
    assert len(called) == times


def transcribe_in_child(times: int) -> dict:
    """What `long_recording.py` prints; in a process of its own, whose memory is that of nothing else."""
    command = [sys.executable, str(Path(long_recording.__file__)), "tiny.en", str(times)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


ROUND_SECONDS = audio.clip("narration").seconds + 3


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a high-water mark that can be reset")
@pytest.mark.parametrize("times", [4, pytest.param(77, marks=pytest.mark.soak)], ids=["6 minutes", "2 hours"])
def test_a_long_recording_needs_no_more_memory_than_a_short_one_and_has_its_times_right(times):
    long = transcribe_in_child(times)
    assert long["peak"] < 150e6
    after_two = next(i for i, done in enumerate(long["steps"]) if done > 2 * ROUND_SECONDS)
    assert long["arrays"][after_two] > 6e6  # 94 s of samples, which a round has in one piece, are counted
    assert long["arrays"][-1] - long["arrays"][after_two] < 1e6  # else samples take 64 kB a second, log-mel 32 kB
    assert text.wer(" ".join([audio.clip("narration").text] * times), long["text"]) < 0.08
    assert long["starts"] == sorted(long["starts"])
    for turn in range(times):  # in each round somebody begins to speak where the round begins
        assert min(abs(start - turn * ROUND_SECONDS) for start in long["starts"]) < 1
    assert long["steps"] == sorted(long["steps"])
    assert long["steps"][-1] == pytest.approx(long["seconds"], abs=4)


WORDS = audio.clip("jfk").text.split()
ROUND = list(range(len(WORDS)))


class Words:
    @staticmethod
    def decode(tokens):
        return "".join(f" {WORDS[token]}" for token in tokens if token < TIMESTAMP_RULES.eot)


@dataclass
class Rounds(GuardedDecoder):
    """Gives every window `untimed` without timestamps, and with them `timed`, each of its texts in a second."""

    untimed: list = field(default_factory=list)
    timed: list = field(default_factory=list)
    logprob: float = -0.1
    asked: list = field(default_factory=list)

    def decode_at(self, temperature, encoder_out, prompt):
        self.asked.append(prompt)
        begin = self.rules.timestamp_begin
        timed = [t for i, part in enumerate(self.timed) for t in (begin + 50 * i, *part, begin + 50 * i + 50)]
        timed, logprob = (timed, self.logprob) if self.rules.timestamps else (self.untimed, -0.1)
        return [self.judge(Hypothesis(timed, logprob, 0.1), temperature) for _ in encoder_out]


@pytest.mark.parametrize(
    ("untimed", "timed", "logprob", "expected"),
    [
        (ROUND * 3, [ROUND] * 2, -0.1, [ROUND] * 2),
        (ROUND * 3, [ROUND] * 3, -0.1, [ROUND * 3]),
        (ROUND * 3, [ROUND, ROUND, ROUND[1:]], -0.1, [ROUND * 3]),  # a word less is no round less
        (ROUND * 3, [ROUND] * 2, -1.5, [ROUND * 3]),  # a text that fails its guards tells nothing
        (ROUND, [ROUND[:9]], -0.1, [ROUND]),
    ],
)
def test_of_texts_with_rounds_the_one_with_timestamps_counts_them(untimed, timed, logprob, expected):
    model = ScriptedModel(None)
    model.encode = lambda mel: np.zeros((len(mel), 2, 3), np.float32)
    guards = Guards(temperatures=(0.0,))
    decoder = Rounds(
        model, Words, TIMESTAMP_RULES, [1], guards=guards, untimed=untimed, timed=timed, logprob=logprob
    )  # fmt: skip
    noise = np.random.default_rng(0).normal(0, 0.1, len(timed) * audio.SAMPLE_RATE).astype(np.float32)
    recording = analyse(noise, 80, vad=False)
    found = list(decode_in_batches(decoder, recording, 4, lambda span: model.encode(recording.window(span)[None]), []))
    assert [[token for token in part if token < 50] for each in found for _, _, part in each.cuts] == expected
    assert decoder.asked == [[1, TIMESTAMP_RULES.no_timestamps]] + [[1]] * (untimed != ROUND)


class ShapeModel(ScriptedModel):
    """Its encoder's output has the right shape, and holds nothing."""

    def encode(self, mel):
        return np.zeros((len(mel), mel.shape[2] // 2, 3), np.float32)


@dataclass
class Lengths(GuardedDecoder):
    """Gives a window the number of its encoder frames; `bad` ones get a text that no guard lets pass."""

    bad: tuple = ()
    asked: list = field(default_factory=list)

    def decode_at(self, temperature, encoder_out, prompt):
        frames = encoder_out.shape[1]
        self.asked.append((temperature, len(encoder_out), frames))
        logprobs = [-2.0 if (i, frames) in self.bad else -0.1 for i in range(len(encoder_out))]
        return [self.judge(Hypothesis([frames % 50], each, 0.1), temperature) for each in logprobs]


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("bad", [(), ((0, 650),), ((1, 650), (2, 650))])
def test_a_short_context_that_fails_the_guards_is_decoded_again_whole(monkeypatch, timestamps, bad):
    monkeypatch.setattr("labsupport.whisper.transcribe.SHORT_FRAMES", 1100)
    decoder = Lengths(ShapeModel(None), Words, TIMESTAMP_RULES, [1], bad=bad)
    noise = np.random.default_rng(0).normal(0, 0.1, 31 * audio.SAMPLE_RATE).astype(np.float32)
    recording = analyse(noise, 80, vad=False)

    def encode(span):
        return decoder.model.encode(recording.window(span)[None])

    if timestamps:
        windows = [transcribe.Span(2000, 3100)]
        found = transcribe.decode_windows(decoder, recording, windows, encode, [], short=1)
        lengths = [encoder_out.shape[1] for encoder_out, _ in found]
        bad = bad if bad and bad[0][0] == 0 else ()
    else:
        found = list(decode_in_batches(decoder, recording, 4, encode, [], short=1))
        assert [(each.window.start, each.window.end) for each in found] == [(0, 1100), (1100, 2200), (2200, 3100)]
        lengths = [each.encoder_out.shape[1] for each in found]
    assert lengths == [1500 if (i, 650) in bad else 650 for i in range(len(found))]
    assert decoder.asked == [(0.0, len(found), 650)] + [(0.0, 1, 1500)] * len(bad)


@pytest.mark.parametrize(
    ("seconds", "short", "frames"), [(3, 0, 3000), (3, 1, 500), (3, 1000, 1000), (12, 1000, 1400), (29, 1000, 3000)]
)
def test_a_short_window_has_its_speech_some_silence_and_never_too_little(seconds, short, frames):
    recording = analyse(np.ones(seconds * audio.SAMPLE_RATE, np.float32), 80, vad=False)
    mels = transcribe.stack_mels([(recording, transcribe.Span(0, 100 * seconds))], short)
    assert mels.shape == (1, 80, frames)


def test_a_whole_window_that_fails_takes_the_next_temperature_at_once():
    guards = Guards(temperatures=(0.0, 0.2))
    decoder = Lengths(ShapeModel(None), Words, TIMESTAMP_RULES, [1], bad=((0, 1500),), guards=guards)
    recording = analyse(np.ones(29 * audio.SAMPLE_RATE, np.float32), 80, vad=False)
    window = transcribe.Span(0, 2900)
    encoder_out = decoder.model.encode(recording.window(window)[None])
    transcribe.decode_windows(decoder, recording, [window], lambda span: encoder_out, [], short=1)
    assert decoder.asked == [(0.0, 1, 1500), (0.2, 1, 1500)]


@pytest.mark.weights
@pytest.mark.parametrize("batch", [1, 4])
def test_log_mel_is_computed_once_for_the_whole_clip(tiny, narration, monkeypatch, batch):
    lengths, feed = [], LogMel.feed
    monkeypatch.setattr(LogMel, "feed", lambda self, samples: lengths.append(len(samples)) or feed(self, samples))
    samples = narration[: 34 * audio.SAMPLE_RATE]
    tiny.ours.transcribe(samples, batch=batch)
    assert lengths == [len(samples)]


@pytest.mark.weights
@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.zeros(32_000, np.float32)])
def test_silence_is_no_error_and_no_text(tiny, samples):
    assert tiny.ours.transcribe(samples).text == ""


@pytest.mark.weights
@pytest.mark.slow
def test_silence_inside_is_cut_out_its_times_are_not_and_nothing_is_invented(tiny, jfk):
    pause = np.zeros(20 * audio.SAMPLE_RATE, np.float32)
    found = tiny.ours.transcribe(np.concatenate([jfk, pause, jfk]), vad=True)
    assert text.wer(audio.clip("jfk").text * 2, found.text) == 0
    assert found.duration == pytest.approx(42, abs=0.1)
    times = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= found.duration
    assert all(segment.end < 14 or segment.start > 28 for segment in found.segments)


@pytest.mark.weights
@pytest.mark.slow
def test_a_prompt_and_hotwords_change_the_spelling(tiny, jfk):
    plain, prompted = (tiny.ours.transcribe(jfk, **options).text for options in ({}, {"hotwords": "FELLOW AMERICANS"}))
    assert "fellow Americans" in plain
    assert "FELLOW AMERICANS" in prompted.upper()
    assert prompted != plain or tiny.ours.transcribe(jfk, initial_prompt="ASK NOT, MY FELLOW AMERICANS").text != plain


@pytest.mark.weights
def test_too_many_hotwords_are_refused(tiny, jfk):
    with pytest.raises(WhisperError, match=r"hotwords are \d+ tokens, and 112 have room"):
        tiny.ours.transcribe(jfk, hotwords="Llanfairpwllgwyngyll " * 40)


@pytest.mark.weights
@pytest.mark.slow
def test_progress_goes_up_to_the_end(tiny, narration):
    seen = []
    tiny.ours.transcribe(narration, on_progress=lambda done, total: seen.append((done, total)))
    done = [seconds for seconds, _ in seen]
    assert done == sorted(done)
    assert len(done) >= 4
    assert seen[-1] == pytest.approx((len(narration) / audio.SAMPLE_RATE,) * 2, abs=0.05)


@pytest.mark.weights
@pytest.mark.slow
def test_blocks_give_what_the_whole_gives(tiny, narration):
    samples = narration[: 40 * audio.SAMPLE_RATE]
    blocks = (samples[i : i + 100_000] for i in range(0, len(samples), 100_000))
    assert tiny.ours.transcribe(blocks, vad=True) == tiny.ours.transcribe(samples, vad=True)
