"""The model's thread: equal to the plain transcriber, errors alone, nobody held up, work that stops."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labsupport import whisper
from labsupport.serving.jobs import Ask, Finished, Job, Piece
from labsupport.serving.metrics import Metrics
from labsupport.serving.problems import ClientGone, Problem
from labsupport.serving.scheduler import Scheduler
from labsupport.serving.work import Work
from labsupport.speech.recording import Recording
from labsupport.speech.text import wer
from labsupport.whisper.transcribe import batch_windows

pytestmark = [pytest.mark.weights, pytest.mark.slow]


@pytest.fixture(scope="module")
def transcriber():
    return whisper.load("tiny.en", engine="onnx")


class Bench:
    """A scheduler that is driven step by step, in this thread."""

    def __init__(self, transcriber, batch: int = 4):
        self.errors: list[Exception] = []
        self.scheduler = Scheduler(transcriber, batch, 1, Metrics(), self.errors.append)
        self.jobs: list[Job] = []
        self.loop = asyncio.new_event_loop()

    def add(self, recording: Recording, **ask) -> Job:
        job = Job(Ask(**ask), Path("none"), limit=600, loop=self.loop)
        self.jobs.append(job)
        self.scheduler.submit(job, recording)
        return job

    def step(self) -> None:
        self.scheduler.begin_arrived()
        self.scheduler.drop_unwanted()
        self.scheduler.decode_batch()
        self.scheduler.amend_one()

    def run(self) -> None:
        while self.scheduler.arrived or self.scheduler.works:
            self.step()

    def events(self, job: Job) -> list:
        self.loop.run_until_complete(asyncio.sleep(0))
        return [job.events.get_nowait() for _ in range(job.events.qsize())]

    def text(self, job: Job) -> str:
        *pieces, finished = self.events(job)
        assert isinstance(finished, Finished), finished
        return "".join(piece.text for piece in pieces).strip()


@pytest.fixture
def bench(transcriber):
    bench = Bench(transcriber)
    yield bench
    bench.loop.close()


@pytest.fixture(scope="module")
def sounds(transcriber, request):
    """Two recordings of speech, one of noise in which the model repeats itself, one of nothing."""
    jfk, narration = request.getfixturevalue("jfk"), request.getfixturevalue("narration")
    noise = 0.05 * np.random.default_rng(0).standard_normal(16_000 * 8).astype(np.float32)
    return {
        "jfk": transcriber.analyse(jfk, vad=True),
        "narration": transcriber.analyse(narration[: 16_000 * 45], vad=True),
        "noise": transcriber.analyse(noise, vad=False),
        "nothing": transcriber.analyse(np.zeros(16_000, np.float32), vad=True),
    }


def test_requests_together_get_the_texts_that_each_gets_alone(bench, transcriber, sounds, jfk, narration):
    jobs = {name: bench.add(recording) for name, recording in sounds.items()}
    bench.run()

    def plain(samples, vad=True):
        return transcriber.transcribe(samples, timestamps=False, batch=4, vad=vad).text

    assert bench.text(jobs["jfk"]) == plain(jfk)
    assert bench.text(jobs["narration"]) == plain(narration[: 16_000 * 45])
    assert bench.text(jobs["nothing"]) == ""
    noise = 0.05 * np.random.default_rng(0).standard_normal(16_000 * 8).astype(np.float32)
    assert bench.text(jobs["noise"]) == plain(noise, vad=False)
    assert bench.errors == []


def test_with_a_short_context_they_get_the_same_texts_too(sounds, jfk, narration):
    """Almost: the longest window of a batch decides how much silence the others are encoded with."""
    short = replace(whisper.load("tiny.en", engine="torch"), short_context=1)
    bench = Bench(short)
    jobs = {name: bench.add(sounds[name]) for name in ("jfk", "narration", "noise")}
    bench.run()
    windows = sum(len(batch_windows(sounds[name], short=1)) for name in jobs)
    assert windows >= 5  # of the narration's 45 s at least three
    assert f"lab_batch_windows_sum {windows:.1f}".encode() in bench.scheduler.metrics.render()
    expected = {"jfk": jfk, "narration": narration[: 16_000 * 45]}
    for name, samples in expected.items():
        alone = short.transcribe(samples, timestamps=False, batch=4, vad=True).text
        assert wer(alone, bench.text(jobs[name])) < 0.03
    assert bench.text(jobs["noise"]) == ""
    assert bench.errors == []
    bench.loop.close()


def test_windows_of_several_requests_share_a_batch(bench, sounds):
    for _ in range(3):
        bench.add(sounds["jfk"])
    bench.add(sounds["jfk"], prompt="other")
    bench.step()
    assert b"lab_batch_windows_sum 3.0" in bench.scheduler.metrics.render()
    bench.run()
    assert b"lab_batch_windows_sum 4.0" in bench.scheduler.metrics.render()


def test_an_error_ends_its_own_request_alone(bench, sounds, monkeypatch):
    good, bad = bench.add(sounds["jfk"]), bench.add(sounds["nothing"])
    broken = bench.add(sounds["narration"])
    window = Recording.window

    def fail(self, span):
        if self is sounds["narration"]:
            raise KeyError("secret")
        return window(self, span)

    monkeypatch.setattr(Recording, "window", fail)
    monkeypatch.setattr(Recording, "is_blank", lambda self, span: False)
    bench.run()
    assert "country" in bench.text(good)
    assert bench.text(bad) == ""
    (problem,) = bench.events(broken)
    assert (problem.status, problem.code) == (500, "internal_error")
    assert [type(error) for error in bench.errors] == [KeyError]


def test_a_job_that_nobody_wants_is_dropped_before_and_inside_a_batch(bench, sounds):
    gone, wanted = bench.add(sounds["narration"]), bench.add(sounds["jfk"])
    gone.end(ClientGone())
    bench.run()
    assert [type(event) for event in bench.events(gone)] == [ClientGone]
    assert bench.text(wanted)
    late = bench.add(sounds["narration"])
    steps = 0

    def leave():
        nonlocal steps
        steps += 1
        if steps == 5:
            late.end(ClientGone())
        Scheduler.check(bench.scheduler)

    bench.scheduler.transcriber.model.check = leave
    bench.run()
    assert steps == 5
    assert [type(event) for event in bench.events(late)] == [ClientGone]
    assert bench.errors == []


def test_a_job_whose_time_is_over_gets_a_problem(bench, sounds):
    job = bench.add(sounds["narration"])
    job.limit = 0.0
    bench.run()
    (problem,) = bench.events(job)
    assert isinstance(problem, Problem)
    assert problem.status == 504


def test_a_window_that_fails_does_not_hold_up_the_others(bench, sounds, monkeypatch):
    """The amendment of one window waits until a batch of others is through."""
    order = []
    monkeypatch.setattr(Scheduler, "decode", note(order, "batch", Scheduler.decode))
    monkeypatch.setattr(Scheduler, "amend_one", note(order, "amend", Scheduler.amend_one))
    monkeypatch.setattr(Work, "is_settled", lambda self, hypothesis: self.recording is not sounds["jfk"])
    failing, other = bench.add(sounds["jfk"], prompt="x"), bench.add(sounds["narration"])
    bench.run()
    assert bench.text(failing)
    assert bench.text(other)
    assert order == ["batch", "amend", "batch", "amend"]


def note(order: list, name: str, function):
    def noted(self, *args):
        order.append(name)
        return function(self, *args)

    return noted


def test_times_are_in_order_and_those_of_the_recording(bench, transcriber, jfk):
    silence = np.zeros(16_000 * 20, np.float32)
    recording = transcriber.analyse(np.concatenate([silence, jfk, silence, jfk]), vad=True)
    job = bench.add(recording, times=True, word_times=True)
    bench.run()
    *pieces, finished = bench.events(job)
    assert finished == Finished("en", 62.0, len(recording.windows()))
    segments = [segment for piece in pieces for segment in piece.segments]
    assert all(isinstance(piece, Piece) and 0 <= piece.seek <= 6200 for piece in pieces)
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    for segment in segments:
        assert 19.5 < segment.start < segment.end < 31.1 or 50.5 < segment.start < segment.end <= 62
        assert "".join(word.text for word in segment.word_timings) == segment.text


def test_the_thread_lives_until_it_is_stopped(transcriber, sounds):
    bench = Bench(transcriber)
    bench.scheduler.start()
    done = threading.Event()
    job = bench.add(sounds["jfk"])
    job.put = lambda event: done.set() if isinstance(event, Finished) else None
    assert done.wait(240)
    assert bench.scheduler.alive
    bench.scheduler.stop()
    assert not bench.scheduler.alive
    bench.loop.close()
