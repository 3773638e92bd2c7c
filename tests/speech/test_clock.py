"""Silence stands where a container's clock leaves a gap, so that what follows comes when it is heard."""

from __future__ import annotations

import io
from collections.abc import Iterable
from types import SimpleNamespace

import av
import numpy as np
import odd_audio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.speech import audio
from labsupport.speech.clock import MOST_SILENCE, MOST_VALUES, RESTART, TOLERANCE, Clock, find_leads, gather

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


def make_frame(time: float | None, seconds: float = 0.02) -> SimpleNamespace:
    return SimpleNamespace(
        time=time, samples=round(seconds * 16_000), sample_rate=16_000, layout=SimpleNamespace(nb_channels=1)
    )


def place(clock: Clock, times: Iterable[float | None], seconds: float = 0.02) -> list[float]:
    """The silence before each frame of so many seconds."""
    return [silence for silence, _ in clock.place(make_frame(time, seconds) for time in times)]


def run(start: float, count: int) -> list[float]:
    """The times of frames that follow each other."""
    return [start + 0.02 * i for i in range(count)]


@given(
    gaps=st.lists(st.floats(0.3, 30), max_size=4),
    start=st.floats(0, 1e5),
    jitter=st.lists(st.floats(-0.03, 0.03), min_size=7, max_size=7),
)
def test_with_its_gaps_the_sound_lasts_as_long_as_the_clock_says(gaps, start, jitter):
    clock, times, time = make_clock(start=start), [], start
    for gap in [0.0, *gaps]:
        times += run(time + gap, 600)
        time += gap + 12
    found = place(clock, [each + jitter[i % 7] for i, each in enumerate(times)])
    assert sum(found) + 0.02 * len(times) == pytest.approx(time - start, abs=TOLERANCE + 0.1)
    assert sum(silence > 0 for silence in found) <= len(gaps)
    assert clock.left_out == []
    assert clock.behind < 0.5


@pytest.mark.parametrize("stall", [0.5, 1.0, 5.0])
def test_a_stall_of_the_network_that_is_made_up_for_is_no_gap(stall):
    """Packets that wait come all at once, and get the time of their arrival."""
    times = run(0, 4500)
    for second in range(5, 85, 10):
        late = [i for i, time in enumerate(times) if second <= time < second + stall]
        for i in late:
            times[i] = second + stall
    clock = make_clock()
    assert sum(place(clock, times)) == 0
    assert clock.warnings() == []


@pytest.mark.parametrize("wrong", [0.0, 9.0, 1000.0, 1e9])
def test_one_wrong_time_changes_nothing(wrong):
    times = run(0, 2000)
    times[230] = wrong
    clock = make_clock()
    assert sum(place(clock, times)) == 0
    assert clock.warnings() == []


def test_frames_without_a_time_follow_the_last():
    times = [time if i % 5 == 0 else None for i, time in enumerate(run(0, 500) + run(15, 500))]
    assert sum(place(make_clock(), times)) == pytest.approx(5)
    assert place(make_clock(), [None] * 9) == [0.0] * 9


@pytest.mark.parametrize(("rate", "silence"), [(1.001, 3.6), (0.999, 0)])
def test_a_clock_that_drifts_is_followed(rate, silence):
    """A thousandth of an hour is 3.6 s; where the clock is the slower one, no sound is cut out, but it is said."""
    clock = make_clock()
    found = place(clock, [second * rate for second in range(3600)], seconds=1)
    assert sum(found) == pytest.approx(silence, abs=TOLERANCE)
    assert max(found) < TOLERANCE + 0.002
    assert [("falls behind" in text and "3.4 s" in text) for text in clock.warnings()] == [True] * (not silence)


@pytest.mark.parametrize(("name", "step"), [("matroska,webm", MOST_SILENCE + 1), ("mpegts", RESTART + 1)])
def test_a_clock_that_goes_on_too_far_is_closed_up_and_told(name, step):
    clock = make_clock(name)
    found = place(clock, run(0, 500) + run(10 + step, 500) + run(21 + step, 500))
    assert sum(found) == pytest.approx(1), "what comes later is followed again"
    assert f"its clock goes on by {step:.0f} s at 10.0 s; this gap is left out." in clock.warnings()


@pytest.mark.parametrize("name", ["mpegts", "mov,mp4,m4a,3gp,3g2,mj2"])
def test_a_clock_that_begins_anew_is_followed_again(name):
    found = place(make_clock(name), run(100, 1000) + run(0, 1500) + run(33, 500))
    assert sum(found[1:]) == pytest.approx(3)


@pytest.mark.parametrize("name", ["avi", "mp3", "aac", "wav"])
def test_times_that_are_counted_from_the_samples_are_no_clock(name):
    assert place(make_clock(name), [0, 5, None]) == [0, 0, 0]


def test_no_more_silence_is_made_than_an_hour_or_what_the_file_says():
    times = [minute * 600.0 for minute in range(100)]
    assert sum(place(make_clock(), times)) <= MOST_SILENCE
    assert sum(place(make_clock(seconds=50_000), times)) == pytest.approx(50_000, abs=700)


def test_of_many_gaps_the_longest_is_told_where_it_stands_in_the_file():
    clock = make_clock()
    place(clock, run(0, 600) + run(13, 600) + run(30, 600))
    assert clock.warnings(100) == [
        "it holds no sound from 125.0 to 130.0 s, the longest of 2 such gaps, as after a pause or a loss."
    ]


def test_little_is_held_of_many_channels():
    frames = [make_frame(0.02 * i) for i in range(100)]
    for frame in frames:
        frame.layout.nb_channels = -(-MOST_VALUES // 320)
    assert [len(block) for block in gather(find_leads(frames, 0))] == [1] * 100
