"""Silence stands where a container's clock leaves a gap, so that what follows comes when it is heard."""

from __future__ import annotations

import io
from types import SimpleNamespace

import av
import numpy as np
import odd_audio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.speech import audio
from labsupport.speech.clock import RESTART, TOLERANCE, UNSTATED, Clock

KINDS = {  # container, codec, rate; whether a picture can stand beside it
    "mp4": ("mp4", "aac", 16_000, True),
    "3gp": ("3gp", "libopencore_amrnb", 8000, True),
    "mkv": ("matroska", "libopus", 48_000, True),
    "webm": ("webm", "libopus", 48_000, False),
    "ts": ("mpegts", "aac", 48_000, True),
    "mpg": ("mpeg", "mp2", 48_000, True),
    "wma": ("asf", "wmav2", 16_000, True),
    "flv": ("flv", "libmp3lame", 44_100, False),
}
WITH_PICTURE = [kind for kind, (*_, picture) in KINDS.items() if picture]
ALWAYS = -1.0  # encoders begin a little before 0


def read(kind: str, later: tuple[float, float] = (0, 0), picture: bool = False) -> np.ndarray:
    muxer, codec, rate, _ = KINDS[kind]
    bits = 12_200 if "amr" in codec else 48_000
    content = odd_audio.with_ffmpeg(odd_audio.speech(rate), rate, muxer, codec, bits, video=picture, later=later)
    return audio.read(io.BytesIO(content))


def locate(samples: np.ndarray) -> np.ndarray:
    """How loud each tenth of a second is."""
    whole = samples[: len(samples) // 1600 * 1600]
    return np.abs(whole.reshape(-1, 1600)).max(axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.5, 14.5])
def test_a_gap_is_silence(kind, seconds):
    plain, late = read(kind), read(kind, (5.5, seconds))
    assert len(late) - len(plain) == pytest.approx(seconds * 16_000, abs=1600)
    found, whole = locate(late), locate(plain)
    gap = slice(58, 54 + round(10 * seconds))
    assert found[gap].max(initial=0) < 0.01
    np.testing.assert_allclose(found[:53], whole[:53], atol=0.05)
    after = found[60 + round(10 * seconds) :][: len(whole) - 60]
    assert np.corrcoef(after, whole[60:][: len(after)])[0, 1] > 0.7


@pytest.mark.parametrize("kind", WITH_PICTURE)
def test_sound_that_begins_after_the_picture_begins_with_silence(kind):
    plain, late = read(kind, picture=True), read(kind, (ALWAYS, 5), picture=True)
    assert len(late) - len(plain) == pytest.approx(5 * 16_000, abs=1600)
    assert np.abs(late[: 5 * 16_000]).max() < 0.01
    assert locate(late)[50:55].max() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_whose_clock_begins_later_begins_with_its_sound(kind):
    assert len(read(kind, (ALWAYS, 5))) == pytest.approx(len(read(kind)), abs=1600)


def test_what_is_missing_in_the_midst_is_told(caplog):
    read("webm", (5.5, 14.5))
    (told,) = caplog.messages
    assert "it holds no sound from 5.5 to 20.0 s" in told


@pytest.mark.parametrize("later", [(0, 0), (ALWAYS, 5), (5.5, 0.3)])
def test_a_late_begin_and_a_short_pause_are_not_told(caplog, later):
    read("mkv", later, picture=True)
    assert caplog.messages == []


# --- the clock by itself ---------------------------------------------------------------------------------------------


def make_clock(name: str = "matroska,webm", start: float = 0, seconds: float | None = None) -> Clock:
    form = SimpleNamespace(name=name)
    stated = None if seconds is None else seconds * av.time_base
    return Clock(SimpleNamespace(format=form, start_time=start * av.time_base, duration=stated))


def make_frame(time: float | None, samples: int = 160) -> SimpleNamespace:
    return SimpleNamespace(time=time, samples=samples, sample_rate=16_000)


@given(
    steps=st.lists(st.one_of(st.just(0.0), st.floats(-0.001, 0.001), st.floats(0.3, 30)), max_size=30),
    start=st.floats(0, 1e5),
)
def test_with_its_gaps_the_sound_lasts_as_long_as_the_clock_says(steps, start):
    clock, time, filled = make_clock(start=start), start, 0.0
    for step in steps:
        time += step
        filled += clock.find_gap(make_frame(time))
        time += 0.01
    assert 0.01 * len(steps) + filled == pytest.approx(time - start, abs=TOLERANCE + 0.001)
    assert not clock.jumps


@pytest.mark.parametrize(("rate", "silence"), [(1.001, 3.6), (0.999, 0)])
def test_a_clock_that_drifts_is_followed(rate, silence):
    """A thousandth of an hour is 3.6 s; where the clock is the slower one, no sound is cut out."""
    clock = make_clock()
    gaps = [clock.find_gap(make_frame(second * rate, 16_000)) for second in range(3600)]
    assert sum(gaps) == pytest.approx(silence, abs=TOLERANCE)
    assert max(gaps) < TOLERANCE + 0.002
    assert clock.warnings() == []


@pytest.mark.parametrize(
    ("name", "seconds", "jump"),
    [
        ("matroska,webm", 11, 12),  # beyond the stated duration
        ("matroska,webm", None, UNSTATED + 1),
        ("mpegts", 1e6, RESTART + 1),
        ("mpegts", None, -5),
        ("mov,mp4,m4a,3gp,3g2,mj2", 100, -50),
    ],
)
def test_a_clock_that_jumps_is_closed_up_and_told(name, seconds, jump):
    clock = make_clock(name, seconds=seconds)
    found = [clock.find_gap(make_frame(time)) for time in (0, 0.01, 0.02 + jump, 0.03 + jump, 0.04 + jump + 1)]
    assert found[:4] == [0, 0, 0, 0]
    assert found[4] == pytest.approx(1)
    assert clock.warnings()[-1] == "its time stamps are out of order at 0.0 s; the sound is taken as it comes."


@pytest.mark.parametrize("name", ["avi", "mp3", "aac", "wav"])
def test_times_that_are_counted_from_the_samples_are_no_clock(name):
    clock = make_clock(name)
    assert [clock.find_gap(make_frame(time)) for time in (0, 5, None)] == [0, 0, 0]


def test_no_more_silence_is_made_than_the_file_lasts():
    clock = make_clock(seconds=100)
    assert sum(clock.find_gap(make_frame(time)) for time in range(0, 3000, 30)) <= 100
