"""Sound as it comes: from a microphone, or from a recording that is played."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from labsupport.base.errors import NotAvailable
from labsupport.speech.mixing import SAMPLE_RATE, Resampler


def play(
    blocks: Iterable[np.ndarray],
    step: float,
    speed: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """A recording as a microphone would give it: what has sounded since the last call, and at least `step` seconds.

    Args:
        blocks: (n,) float32, mono, 16 kHz, as `audio.read_blocks` gives them.
        step: seconds of sound; the last piece may be shorter.
        speed: how many times as fast as it was recorded.
        clock, sleep: in seconds.
    """
    start, given, rest = clock(), 0, np.empty(0, np.float32)
    source = iter(blocks)
    while True:
        wanted = max(round(step * SAMPLE_RATE), int((clock() - start) * speed * SAMPLE_RATE) - given)
        parts = [rest]
        while sum(map(len, parts)) < wanted and (block := next(source, None)) is not None:
            parts.append(block)
        sound = np.concatenate(parts)
        piece, rest = sound[:wanted], sound[wanted:]
        if not len(piece):
            return
        given += len(piece)
        sleep(max(0.0, start + given / SAMPLE_RATE / speed - clock()))
        yield piece


def record(step: float) -> Iterator[np.ndarray]:
    """The microphone's sound: what has come since the last call, and at least `step` seconds: (n,) float32, 16 kHz.

    It goes on until the generator is closed.

    Raises:
        NotAvailable: PortAudio or a microphone is missing.
    """
    sounddevice = require_portaudio()
    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        waiting: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        stream = sounddevice.InputStream(
            rate, channels=1, dtype="float32", callback=lambda sound, *_: waiting.put(sound[:, 0].copy())
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        hint = "Connect one and allow its use, or play a file: ./lab live FILE"
        raise NotAvailable(f"There is no microphone that can be used: {error}.", hint=hint) from error
    with stream:
        yield from gather(waiting, Resampler(rate), step)


def gather(waiting: queue.SimpleQueue, resampler: Resampler, step: float) -> Iterator[np.ndarray]:
    """Pieces (n,) at 16 kHz out of a queue of blocks at the resampler's rate; without end."""
    while True:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < step * SAMPLE_RATE or not waiting.empty():
            parts.append(resampler.feed(waiting.get()))
        yield np.concatenate(parts)


def require_portaudio():
    """The package sounddevice; NotAvailable where it, or the library that it calls, is missing."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself
        hint = "Install it (Debian and Ubuntu: apt install libportaudio2), or play a file: ./lab live FILE"
        raise NotAvailable(f"A microphone needs PortAudio: {error}.", hint=hint) from error
    return sounddevice
