"""Every kind of file is read: formats, rates, channels, file objects; windows. See also test_audio_refusals.py."""

from __future__ import annotations

import io
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import odd_audio
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sound_files import FORMATS, sine, write

from labsupport.base.errors import AudioError
from labsupport.speech import audio

# --- reading what is good ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_read_gives_the_sound_of_every_format(tmp_path, kind):
    rate = 48_000  # the one rate that all of these formats have
    stereo = np.stack([sine(rate)] * 2, axis=1)
    samples = audio.read(write(tmp_path / kind, stereo, rate, kind))
    assert samples.dtype == np.float32
    assert samples.shape == (16_000,)
    middle = slice(1000, -1000)  # codecs and the resampler's filter ring at the edges
    np.testing.assert_allclose(samples[middle], sine(16_000)[middle], atol=FORMATS[kind][2] + 1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 192_000])
def test_read_converts_every_rate(tmp_path, rate):
    samples = audio.read(write(tmp_path / "a.wav", sine(rate), rate, "f32.wav"))
    assert abs(len(samples) - 16_000) <= 1
    np.testing.assert_allclose(samples[1000:-1000], sine(16_000)[1000 : len(samples) - 1000], atol=1e-4)


def test_read_removes_what_16_khz_cannot_hold(tmp_path):
    high = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)
    assert np.abs(audio.read(write(tmp_path / "a.wav", high, 48_000))[500:-500]).max() < 1e-3


def test_read_at_16_khz_changes_no_sample(tmp_path):
    exact = np.array([-32768, -1, 0, 1, 32767], np.int16)
    np.testing.assert_array_equal(audio.read(write(tmp_path / "a.flac", exact, kind="s16.flac")), exact / 32768)


def test_read_averages_the_channels(tmp_path):
    three = np.array([[0.9, 0.0, 0.3], [0.0, 0.6, 0.0]], np.float32)
    samples = audio.read(write(tmp_path / "a.wav", three, kind="f32.wav"))
    np.testing.assert_allclose(samples, [0.4, 0.2], atol=1e-7)


def test_read_keeps_values_beyond_full_scale(tmp_path):
    assert audio.read(write(tmp_path / "a.wav", np.array([3.0, -2.0]), kind="f32.wav")).tolist() == [3.0, -2.0]


def test_silence_is_no_error(tmp_path):
    assert not audio.read(write(tmp_path / "a.wav", np.zeros(100))).any()


@pytest.mark.parametrize("rate", [8_000, 16_000, 192_000])
def test_one_sample_is_no_error(tmp_path, rate):
    assert len(audio.read(write(tmp_path / "a.wav", np.array([0.5]), rate))) >= 1


def with_data_size(wav: bytes, size: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


def test_a_streamed_wav_is_no_error(tmp_path):
    path = write(tmp_path / "a.wav", sine(16_000))
    for placeholder in (0xFFFFFFFF, 0x7FFFFFFF):
        path.write_bytes(with_data_size(path.read_bytes(), placeholder))
        assert len(audio.read(path)) == 16_000


def test_the_name_of_a_file_does_not_matter(tmp_path):
    assert len(audio.read(write(tmp_path / "no suffix, ünïcode", sine(16_000), kind="l3.mp3"))) == 16_000


def read_at_once(path: Path) -> np.ndarray:
    """The reference: the whole file through soundfile, the channels' average, one call of soxr."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, 16_000, quality="HQ")


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_give_what_one_call_gives(tmp_path, kind, rate):
    if kind == "opus.ogg":
        rate = 48_000
    stereo = np.stack([sine(rate, 3), 0.4 * sine(rate, 3) + 0.05], axis=1)
    path = write(tmp_path / kind, stereo, rate, kind)
    np.testing.assert_allclose(audio.read(path), read_at_once(path), atol=1e-5)


def test_a_long_file_comes_in_blocks_of_30_seconds(tmp_path):
    noise = np.random.default_rng(0).normal(size=(70 * 8_000, 2)) / 5
    path = write(tmp_path / "a.flac", noise, 8_000, "s16.flac")
    blocks = list(audio.read_blocks(path))
    assert [len(block) for block in blocks] == [480_000, 480_000, 160_000]
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), read_at_once(path), atol=1e-6)


def test_blocks_hold_little_memory(tmp_path):
    """Ten minutes are 38 MB at 16 kHz and 77 MB before; reading them may add less than a tenth to one minute's peak."""
    minute = np.random.default_rng(0).integers(-9000, 9000, (60 * 16_000, 2)).astype(np.int16)
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / "a.wav"
        soundfile.write(path, np.tile(minute, (minutes, 1)), 16_000)
        tracemalloc.start()
        assert sum(len(block) for block in audio.read_blocks(path)) == minutes * 960_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize(
    "name",
    ["good.wav", "gsm.wav", "mp3_in.wav", "clip.m4a", "clip.webm", "clip.mp4", "alaw.wav", "adpcm_ima.wav", "pcm24.wav",
     "pcm8.wav", "zero_data_size.wav", "max_data_size.wav", odd_audio.ODD_NAME, odd_audio.DASH_NAME,
     odd_audio.BYTE_NAME, "chained_vorbis.ogg", "chained_opus.ogg", "joined.mp3"],
    ids=ascii,
)  # fmt: skip
def test_odd_files_give_all_the_speech(tmp_path, name):
    try:
        path = odd_audio.write(tmp_path, name)
    except (OSError, UnicodeError) as error:
        pytest.skip(f"this file system has no such names: {error}")
    found, clip = audio.read(path), odd_audio.speech(16_000)
    copies = 2 if name.startswith(("chained", "joined")) else 1
    assert len(found) == pytest.approx(copies * len(clip), abs=copies * 1500)
    for copy in range(copies):
        assert_holds_speech(found[copy * len(found) // copies :], clip)


def assert_holds_speech(found: np.ndarray, clip: np.ndarray) -> None:
    """Asserts that `found` begins with `clip`, a codec's delay and its changes aside."""
    size = 1 << 19
    spectra = [np.fft.rfft(each[: len(clip)] / np.linalg.norm(each[: len(clip)]), size) for each in (found, clip)]
    similarity = np.fft.irfft(spectra[0] * spectra[1].conj(), size)  # by delay
    assert similarity[:2500].max() > 0.9


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("start.wav", 4.6), ("float64.wav", 4.6), ("opposite_phase.wav", 4.6), ("silence_10s.wav", 10.0),
     ("low_noise_20s.wav", 20.0), ("short_01s.wav", 0.1), ("rate_1hz.wav", 60.0), ("channels_64.wav", 1.1),
     ("silence_between.wav", 42.0)],
)  # fmt: skip
def test_other_odd_files_have_their_length(tmp_path, name, seconds):
    assert len(audio.read(odd_audio.write(tmp_path, name))) / 16_000 == pytest.approx(seconds, abs=0.1)


def test_opposite_phases_are_as_loud_as_one_channel(tmp_path):
    both, one = (audio.read(odd_audio.write(tmp_path, name)) for name in ("opposite_phase.wav", "start.wav"))
    np.testing.assert_allclose(both, one, atol=1e-3)


def write_mp3_without_frame_count(path: Path, samples: np.ndarray, mode: str) -> Path:
    """Removes the first frame, which is the Xing or Info header; the next begins with the same two bytes."""
    write(path, samples, kind="l3.mp3", bitrate_mode=mode, compression_level=0.5)
    content = path.read_bytes()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    path.write_bytes(content[content.index(content[:2], 4) :])
    return path


def test_an_mp3_that_seems_shorter_by_its_first_bit_rate_is_read_to_its_end(tmp_path):
    loud = np.random.default_rng(0).normal(size=80_000) / 5
    path = write_mp3_without_frame_count(tmp_path / "a.mp3", np.r_[loud, np.zeros(320_000)], "VARIABLE")
    assert len(audio.read(path)) >= 400_000


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_frame_count_is_read_to_its_end(tmp_path, mode):
    growing = np.r_[np.zeros(80_000), np.random.default_rng(0).normal(size=80_000) / 5]
    path = write_mp3_without_frame_count(tmp_path / "a.mp3", growing, mode)
    assert len(audio.read(path)) >= 160_000


# --- channels, durations, file objects --------------------------------------------------------------------------------


def test_a_channel_is_chosen_counting_from_one(tmp_path):
    path = write(tmp_path / "a.wav", np.array([[0.1, -0.2, 0.3]] * 8), kind="f32.wav")
    assert audio.count_channels(path) == 3
    for channel, value in enumerate([0.1, -0.2, 0.3], 1):
        np.testing.assert_allclose(audio.read(path, channel), value, atol=1e-7)


@pytest.mark.parametrize("channel", [0, -1, 4])
def test_a_channel_that_is_not_there_has_an_error(tmp_path, channel):
    path = write(tmp_path / "a.wav", np.zeros((9, 3)))
    with pytest.raises(AudioError, match=f"no channel {channel}") as caught:
        audio.read(path, channel)
    assert caught.value.hint == "It has 3, counted from 1."


def test_a_channel_may_be_missing_in_the_second_of_two_recordings(tmp_path):
    path = write(tmp_path / "a.flac", np.zeros((9, 2)), kind="s16.flac")
    path.write_bytes(path.read_bytes() + write(tmp_path / "b.flac", np.zeros(9), kind="s16.flac").read_bytes())
    assert len(audio.read(path, 1)) == len(audio.read(path)) == 18
    with pytest.raises(AudioError, match="no channel 2"):
        audio.read(path, 2)


@pytest.mark.parametrize(
    ("name", "seconds", "channels"),
    [("good.wav", 11.0, 1), ("clip.m4a", 11.0, 1), ("clip.webm", 11.008, 1), ("chained_vorbis.ogg", 22.0, 1),
     ("zero_data_size.wav", 11.0, 1), ("opposite_phase.wav", 4.6, 2), ("channels_64.wav", 1.1, 64)],
)  # fmt: skip
def test_the_header_says_how_long_and_how_many(tmp_path, name, seconds, channels):
    path = odd_audio.write(tmp_path, name)
    assert audio.duration(path) == pytest.approx(seconds, abs=0.01)
    assert audio.count_channels(path) == channels


def test_a_streamed_webm_has_no_duration(tmp_path):
    content = odd_audio.with_ffmpeg(odd_audio.speech(48_000, 1), 48_000, "webm", "libopus", 32_000, live="1")
    (tmp_path / "a.webm").write_bytes(content)
    assert audio.duration(tmp_path / "a.webm") is None


@pytest.mark.parametrize("name", ["good.wav", "clip.m4a", "joined.mp3"])
def test_a_file_object_is_read_from_its_start(tmp_path, name):
    path = odd_audio.write(tmp_path, name)
    with path.open("rb") as file:
        file.seek(9)
        np.testing.assert_array_equal(audio.read(file), audio.read(path))
        assert audio.count_channels(file) == 1
        assert not file.closed


@pytest.mark.parametrize("name", ["good.wav", "clip.webm", "chained_vorbis.ogg", "joined.mp3"])
def test_standard_input_that_was_spooled_is_read(name):
    with tempfile.SpooledTemporaryFile(max_size=50_000) as file:
        file.write(odd_audio.build(name))
        np.testing.assert_array_equal(audio.read(file), audio.read(io.BytesIO(odd_audio.build(name))))


def test_errors_of_a_file_object_carry_its_name(tmp_path):
    for file, where in (
        (io.BytesIO(b""), "standard input"),
        ((tmp_path / "a.wav").open("w+b"), str(tmp_path / "a.wav")),
    ):
        with pytest.raises(AudioError, match="0 bytes") as caught:
            audio.read(file)
        assert caught.value.where == where
        file.close()


# --- windows ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 2000), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 700).map(lambda size: size / audio.SAMPLE_RATE),
)
def test_windows_never_drop_the_tail(samples, seconds):
    parts = audio.windows(samples, seconds)
    size = round(seconds * audio.SAMPLE_RATE)
    np.testing.assert_array_equal(np.concatenate(parts), samples)
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size
    assert all(part.dtype == np.float32 for part in parts)


def test_windows_are_30_seconds_by_default():
    lengths = [len(part) for part in audio.windows(np.zeros(91 * 16_000, np.float32))]
    assert lengths == [480_000, 480_000, 480_000, 16_000]


@pytest.mark.parametrize(
    "samples", [np.zeros(9), np.zeros(9, np.int16), np.zeros((1, 9), np.float32), [0.0], None], ids=repr
)
def test_windows_refuse_what_read_never_gives(samples):
    with pytest.raises(AudioError, match="float32"):
        audio.windows(samples)


def test_windows_of_nothing_have_an_error():
    with pytest.raises(AudioError, match="no samples"):
        audio.windows(np.zeros(0, np.float32))


def test_windows_without_length_have_an_error():
    with pytest.raises(ValueError, match="holds no sample"):
        audio.windows(np.zeros(9, np.float32), 0)
