"""Damaged and mixed files of twelve formats give sound or an AudioError: no other exception, crash, hang or big memory.

The inputs are drawn by hypothesis from one seed, SEED, so that every run has the same; one that fails is stored, and
its path is in the message.
"""

from __future__ import annotations

import functools
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import odd_audio
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("limits of memory and their figures are Linux's", allow_module_level=True)

from audio_worker import Worker

SEED = 16
INPUTS = 500
RATE = 16_000


def encode(muxer: str, codec: str, rate: int = RATE, bit_rate: int = 48_000, **options) -> bytes:
    return odd_audio.with_ffmpeg(odd_audio.speech(rate, 2.0), rate, muxer, codec, bit_rate, **options)


def store(form: str, subtype: str) -> bytes:
    return odd_audio.with_soundfile(odd_audio.speech(RATE, 2.0), RATE, form, subtype)


FORMATS = {
    "wav": lambda: store("WAV", "PCM_16"),
    "gsm": lambda: store("WAV", "GSM610"),
    "mp3": lambda: encode("mp3", "libmp3lame") * 2,
    "mp3 in wav": lambda: encode("wav", "libmp3lame"),
    "flac": lambda: store("FLAC", "PCM_16"),
    "vorbis": lambda: store("OGG", "VORBIS") * 2,
    "opus": lambda: store("OGG", "OPUS"),
    "m4a": lambda: encode("ipod", "aac"),
    "mp4": lambda: encode("mp4", "aac", video=True),
    "webm": lambda: encode("webm", "libopus", 48_000),
    "wma": lambda: encode("asf", "wmav2"),
    "amr": lambda: encode("amr", "libopencore_amrnb", 8000, 12_200),
}


@functools.cache
def build(name: str) -> bytes:
    return FORMATS[name]()


# --- damage: each takes bytes and gives bytes; a place is a part of the length -------------------------------------

places = st.floats(0, 1, exclude_max=True)
numbers = st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10**9]) | st.integers(0, 2**32 - 1)


def cut(place: float):
    return lambda data: data[: 1 + int(place * len(data))]


def flip(bits: list[float]):
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for place in bits:
            at = int(place * 8 * len(changed))
            changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    return change


def write_number(place: float, number: int, order: str):
    def change(data: bytes) -> bytes:
        at = int(place * min(len(data), 600))
        return data[:at] + struct.pack(f"{order}I", number) + data[at + 4 :]

    return change


def splice(place: float, name: str, start: float, length: int, rest: bool):
    def change(data: bytes) -> bytes:
        at, other = int(place * len(data)), build(name)
        first = int(start * len(other))
        return data[:at] + other[first : first + length] + (data[at:] if rest else b"")

    return change


def replace_header(name: str, length: int):
    return lambda data: build(name)[:length] + data[length:]


damages = st.one_of(
    st.builds(cut, places),
    st.builds(flip, st.lists(places, min_size=1, max_size=200)),
    st.builds(write_number, places, numbers, st.sampled_from("<>")),
    st.builds(splice, places, st.sampled_from(sorted(FORMATS)), places, st.integers(1, 20_000), st.booleans()),
    st.builds(replace_header, st.sampled_from(sorted(FORMATS)), st.sampled_from([4, 12, 44, 64, 200, 1000])),
)


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    assert worker.close() == "", "something wrote to stderr"


OUTCOMES: Counter[str] = Counter()


@pytest.mark.slow
@seed(SEED)
@settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a crash ends the worker, so that nothing can be shrunk
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.sampled_from(sorted(FORMATS)), st.lists(damages, min_size=1, max_size=4))
def test_damaged_files_give_sound_or_a_typed_error(worker, name, changes):
    content = build(name)
    for change in changes:
        content = change(content) or b"\0"
    outcome, peak = worker.read(content)
    OUTCOMES[outcome.split(":")[0]] += 1
    if outcome.startswith("fault") or "memory" in outcome or peak > 700:
        path = Path(tempfile.mkdtemp(prefix="fuzz_")) / "input"
        path.write_bytes(content)
        pytest.fail(f"seed {SEED}, {name}: {outcome}; peak {peak} MB; the input is in {path}")


@pytest.mark.slow
def test_the_fuzz_reached_both_outcomes():
    assert sum(OUTCOMES.values()) >= INPUTS
    assert min(OUTCOMES["sound"], OUTCOMES["error"]) > INPUTS / 10, OUTCOMES


PLANTED = {  # what is planted in place of audio.read, and how the outcome begins
    "crash": ("import os\naudio.read = lambda *_, **options: os.abort()", "fault: the process ended with -6"),
    "hang": (
        "import time\nSECONDS = 1\naudio.read = lambda *_, **options: time.sleep(60)",
        "fault: the process ended with -14",
    ),
    "exception": ("audio.read = lambda *_, **options: 1 / 0", "fault: ZeroDivisionError"),
    "memory": ("audio.read = lambda *_, **options: bytes(2 * MEMORY)", "fault: MemoryError"),
    "not finite": (
        "import numpy\naudio.read = lambda *_, **options: numpy.full(9, numpy.nan, 'f4')",
        "fault: no finite",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTED)
def test_the_worker_notices_a_planted_fault(kind):
    code, message = PLANTED[kind]
    planted = Worker("from labsupport.speech import audio\n" + code)
    assert planted.read(b"x")[0].startswith(message)
    planted.close()
