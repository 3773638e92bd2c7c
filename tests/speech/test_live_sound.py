"""Sound as it comes: a file is played in its own time, and a microphone that is missing is an error that says so."""

from __future__ import annotations

import builtins
import queue
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import NotAvailable
from labsupport.speech.live_sound import gather, play, record
from labsupport.speech.mixing import SAMPLE_RATE, Resampler


class Clock:
    """Seconds that pass while somebody sleeps or computes, and at no other time."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@given(st.lists(st.integers(0, 40_000), max_size=6), st.floats(0.1, 3), st.floats(0.5, 8), st.floats(0, 4))
def test_a_file_that_is_played_gives_all_its_sound_and_none_before_its_time(lengths, step, speed, computing):
    whole = np.arange(sum(lengths), dtype=np.float32)
    clock, given_ = Clock(), 0
    blocks = np.split(whole, np.cumsum(lengths)[:-1]) if lengths else []
    pieces = []
    for piece in play(blocks, step, speed, clock, clock.sleep):
        given_ += len(piece)
        assert (clock.now - 100) * speed >= given_ / SAMPLE_RATE - 1e-3
        clock.now += computing
        pieces.append(piece)
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *pieces]), whole)
    assert all(len(piece) >= round(step * SAMPLE_RATE) for piece in pieces[:-1])


def test_who_computes_long_gets_all_that_has_sounded_meanwhile():
    clock = Clock()
    pieces = play([np.zeros(SAMPLE_RATE * 60, np.float32)], 1.0, 2.0, clock, clock.sleep)
    assert len(next(pieces)) == SAMPLE_RATE
    clock.now += 5
    assert len(next(pieces)) == 10 * SAMPLE_RATE


def test_blocks_of_a_microphone_come_together_at_16_khz():
    waiting = queue.SimpleQueue()
    tone = np.sin(2 * np.pi * 440 * np.arange(48_000 * 3) / 48_000).astype(np.float32)
    for block in np.split(tone, 300):
        waiting.put(block)
    piece = next(gather(waiting, Resampler(48_000), 1.0))
    expected = np.sin(2 * np.pi * 440 * np.arange(len(piece)) / SAMPLE_RATE)
    assert 2.9 * SAMPLE_RATE < len(piece) <= 3 * SAMPLE_RATE
    np.testing.assert_allclose(piece[500:-500], expected[500:-500], atol=1e-2)


@pytest.mark.parametrize("error", [ImportError("No module named sounddevice"), OSError("PortAudio library not found")])
def test_without_portaudio_it_is_said_what_to_install(monkeypatch, error):
    import_module = builtins.__import__

    def refuse(name, *rest):
        if name == "sounddevice":
            raise error
        return import_module(name, *rest)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(NotAvailable, match=r"(?s)PortAudio.*libportaudio2"):
        next(record(1.0))


class Stream:
    """sounddevice's, with a callback that gets a second of ones at once."""

    def __init__(self, rate, channels, dtype, callback):
        callback(np.ones((rate, channels), dtype), rate, None, None)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing is open."""


def test_a_microphone_gives_its_sound_and_a_missing_one_is_an_error(monkeypatch):
    fake = SimpleNamespace(InputStream=Stream, PortAudioError=RuntimeError)
    fake.query_devices = lambda kind: {"default_samplerate": 16_000.0}
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    np.testing.assert_array_equal(next(record(0.5)), np.ones(16_000))

    def refuse(kind):
        raise RuntimeError("no default input device")

    fake.query_devices = refuse
    with pytest.raises(NotAvailable, match="no default input device"):
        next(record(0.5))
