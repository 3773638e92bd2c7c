"""One request's windows: which may share a batch, and that text comes in order however windows are decoded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from labsupport import whisper
from labsupport.serving.jobs import Ask, Job
from labsupport.serving.work import begin, stack_windows

pytestmark = [pytest.mark.weights, pytest.mark.slow]


@pytest.fixture(scope="module")
def transcriber():
    return whisper.load("tiny.en", engine="onnx")


def make(transcriber, recording, **ask):
    loop = SimpleNamespace(is_closed=lambda: False, call_soon_threadsafe=lambda call, event: call(event))
    return begin(Job(Ask(**ask), Path("none"), 60, loop=loop, events=asyncio.Queue()), recording, transcriber, 1)


@pytest.fixture(scope="module")
def recording(transcriber, request):
    return transcriber.analyse(request.getfixturevalue("narration"), vad=True)


def test_what_asks_the_same_may_share_a_batch(transcriber, recording):
    key = lambda **ask: make(transcriber, recording, **ask).lane.key  # noqa: E731
    assert key() == key() == key(times=True) == key(language="en")
    assert key() != key(prompt="names")
    assert key(prompt="names") == key(prompt=" names ")
    first, second = (make(transcriber, recording, temperature=0.5) for _ in range(2))
    assert first.lane.key != second.lane.key


def test_text_comes_in_order_however_the_windows_are_settled(transcriber, recording):
    work = make(transcriber, recording)
    windows = list(work.lane.windows)
    encoder_out = transcriber.model.encode(stack_windows([(work, *each) for each in windows]))
    found = work.decode_first(encoder_out)
    assert len(windows) == work.windows == 4
    sizes = []
    for number in (2, 0, 3, 1):
        cut = work.cut(windows[number][1], encoder_out[number : number + 1], found[number])
        work.settle(number, [cut])
        sizes.append(work.job.events.qsize())
    assert sizes == [0, 1, 1, 4]
    assert work.complete
    texts = [work.job.events.get_nowait().text for _ in range(4)]
    assert texts == [transcriber.tokenizer.decode(each.tokens) for each in found]


def test_a_window_that_repeats_itself_is_amended(transcriber, recording):
    work = make(transcriber, recording)
    _, window = work.lane.windows[0]
    encoder_out = work.encode(window)
    (good,) = work.decode_first(encoder_out)
    assert work.is_settled(good)
    loop = work.untimed.judge(type(good)(good.tokens[:4] * 40, -0.2, 0.01), 0.0)
    assert not work.is_settled(loop)
    amended = work.amend(window, encoder_out, loop)
    assert not any(work.decoder.guards.is_bad(each.hypothesis) for each in amended)
