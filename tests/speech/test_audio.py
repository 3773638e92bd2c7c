"""Every kind of file is read, every kind of damage reported by its own message; windows; the clips and their cards."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
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

from labsupport.base.errors import AudioError
from labsupport.base.paths import AUDIO
from labsupport.speech import audio

FORMATS = {  # suffix: what soundfile calls it, and how far the decoded sine may be from the true one
    "u8.wav": ("WAV", "PCM_U8", 1e-2),
    "s16.wav": ("WAV", "PCM_16", 1e-4),
    "s24.wav": ("WAV", "PCM_24", 1e-6),
    "s32.wav": ("WAV", "PCM_32", 1e-6),
    "f32.wav": ("WAV", "FLOAT", 1e-6),
    "f64.wav": ("WAV", "DOUBLE", 1e-6),
    "ulaw.wav": ("WAV", "ULAW", 3e-2),
    "s16.flac": ("FLAC", "PCM_16", 1e-4),
    "s24.flac": ("FLAC", "PCM_24", 1e-6),
    "vorbis.ogg": ("OGG", "VORBIS", 3e-2),
    "opus.ogg": ("OGG", "OPUS", 5e-2),
    "l3.mp3": ("MP3", "MPEG_LAYER_III", 3e-2),
}


CUT = "The file is cut off or damaged"


def sine(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def write(path: Path, samples, rate: int = 16_000, kind: str = "s16.wav", **how) -> Path:
    container, subtype, _ = FORMATS[kind]
    soundfile.write(path, samples, rate, format=container, subtype=subtype, **how)
    return path


def cut(path: Path, part: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


# --- reading what is good ----------------------------------------------------------------------------------------


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


# --- channels, durations, file objects ---------------------------------------------------------------------------


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


# --- limits ------------------------------------------------------------------------------------------------------


def limited(content: bytes, message: str, hint: str, limits: audio.Limits | None = None) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(io.BytesIO(content), limits=limits or audio.Limits())
    assert hint in caught.value.hint


def test_a_flac_that_claims_too_much_is_refused_by_its_header():
    limited(odd_audio.build("claims_long.flac"), "lasts 2386 hours", "`--max-hours 2387` allows it")
    with pytest.raises(AudioError, match=CUT):
        audio.read(io.BytesIO(odd_audio.build("claims_long.flac")), limits=audio.Limits(seconds=1e8))


@pytest.mark.parametrize("name", ["good.wav", "joined.mp3", "clip.webm", "chained_opus.ogg"])
def test_sound_beyond_the_limit_is_refused(name):
    limited(odd_audio.build(name), "lasts 0.00", "--max-hours 1", audio.Limits(seconds=10))


def test_a_low_rate_carries_no_speech_and_is_not_stretched_to_hours():
    limited(odd_audio.build("rate_1hz_long.wav"), "At a rate of 1 Hz it would last 5.6 hours", "-ar RATE")


@pytest.mark.parametrize("rate", [0, 768_001, 4_000_000, 2**31 - 1])
def test_a_rate_that_cannot_be_right_is_refused(rate):
    content = odd_audio.make_wav(bytes(2000), rate, channels=1)
    with pytest.raises(AudioError, match=f"A rate of {rate} Hz|{CUT}"):
        audio.read(io.BytesIO(content))


@pytest.mark.parametrize("rate", [1, 7, 999, 1000, 44_099, 768_000])
def test_every_rate_in_between_is_converted(rate):
    count = min(rate * 3, 300_000)
    found = audio.read(io.BytesIO(odd_audio.make_wav(bytes(2 * count), rate)))
    assert abs(len(found) - count * 16_000 / rate) <= 1


def test_too_many_channels_are_refused():
    content = odd_audio.make_wav(bytes(2 * 65 * 10), 16_000, channels=65)
    limited(content, "has 65 channels", "`--max-channels 65` allows it")
    assert len(audio.read(io.BytesIO(content), limits=audio.Limits(channels=65))) == 10


# --- refusing what is bad ----------------------------------------------------------------------------------------


def with_data_size(wav: bytes, size: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


def fails(message: str, path: Path) -> None:
    """Asserts that reading `path` raises an AudioError that says `message` and names the file."""
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path)
    assert caught.value.where == path


def test_a_missing_file_has_its_error(tmp_path):
    fails("no such file", tmp_path / "nothing.wav")
    file = write(tmp_path / "a.wav", sine(16_000))
    fails("no such file", file / "below a file.wav")


def test_a_folder_has_its_error(tmp_path):
    fails("is a folder", tmp_path)


def test_an_empty_file_has_its_error(tmp_path):
    (tmp_path / "a.wav").touch()
    fails("0 bytes", tmp_path / "a.wav")


@pytest.mark.parametrize(
    "content",
    [b"plain text " * 100, b"RIFF\x10\x00\x00\x00AVI " + bytes(500), b"\x89PNG\r\n\x1a\n" + bytes(500), b"x"],
    ids=["text", "avi", "png", "one byte"],
)
def test_what_is_no_audio_has_its_error(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    fails("no audio that can be decoded", tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["text.wav", "zip.wav", "jpeg.mp3", "pdf.ogg", "random.wav", "zeros.wav"])
def test_no_audio_under_the_name_of_one_has_its_error(tmp_path, name):
    contents = {
        "text.wav": odd_audio.build("text.wav"),
        "zip.wav": b"PK\x03\x04" + np.random.default_rng(1).bytes(30_000),
        "jpeg.mp3": b"\xff\xd8\xff\xe0\x00\x10JFIF" + np.random.default_rng(2).bytes(30_000),
        "pdf.ogg": b"%PDF-1.7\n" + np.random.default_rng(3).bytes(30_000),
        "random.wav": np.random.default_rng(4).bytes(30_000),
        "zeros.wav": bytes(30_000),
    }
    (tmp_path / name).write_bytes(contents[name])
    fails("no audio that can be decoded", tmp_path / name)


def test_a_video_without_sound_has_its_error(tmp_path):
    fails("no sound, only pictures", odd_audio.write(tmp_path, "silent_video.mp4"))


@pytest.mark.parametrize("name", ["empty.wav", "empty.bin", "claims_1gb.wav", "claims_3gb.wav"])
def test_empty_and_boasting_files_have_their_error(tmp_path, name):
    fails(f"no sound at all|0 bytes|{CUT}", odd_audio.write(tmp_path, name))


@pytest.mark.parametrize("name", ["loop.wav", "loop_a.wav"])
def test_a_link_to_itself_has_its_error(tmp_path, name):
    try:
        odd_audio.write_links(tmp_path)
    except OSError as error:
        pytest.skip(f"this system makes no symbolic links: {error}")
    fails("symbolic link", tmp_path / name)


@pytest.mark.parametrize("name", [odd_audio.LONG_NAME, "a\0b.wav", "\ud800.wav", odd_audio.BYTE_MISSING], ids=ascii)
def test_a_name_that_no_file_has_is_named_in_its_error(tmp_path, name):
    fails("longer than this system allows|No file can have this name|no such file", tmp_path / name)
    with pytest.raises(AudioError):
        audio.count_channels(tmp_path / name)


def test_a_device_has_its_error():
    fails("not a regular file", Path(os.devnull))


class FailingFile(io.BytesIO):
    """A file on a disk that fails after 40 kB."""

    def read(self, count=-1):
        if self.tell() > 40_000:
            raise OSError(5, "Input/output error")
        return super().read(count)


@pytest.mark.parametrize("name", ["pcm8.wav", "clip.m4a", "joined.mp3", "chained_vorbis.ogg", "claims_long.flac"])
def test_a_failing_disk_has_its_error(name, capfd):
    limits = audio.Limits(seconds=1e9)
    with pytest.raises(AudioError, match="cannot be read: Input/output error"):
        audio.read(FailingFile(odd_audio.build(name)), limits=limits)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("error", "message"), [(MemoryError(), "does not fit"), (OverflowError(), CUT)])
def test_a_lack_of_memory_has_its_error(tmp_path, monkeypatch, error, message):
    def refuse(*_):
        raise error

    monkeypatch.setattr(audio.Converter, "convert", refuse)
    fails(message, odd_audio.write(tmp_path, "good.wav"))


def test_headerless_samples_have_an_error(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(100))
    fails("does not say what its bytes mean", tmp_path / "a.raw")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes among its files")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fails("not a regular file", tmp_path / "pipe")


def test_zero_samples_have_their_error(tmp_path):
    fails("no sound at all", write(tmp_path / "a.wav", np.zeros(0)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_samples_have_their_error(tmp_path, value):
    samples = sine(16_000)
    samples[8000] = value
    fails(r"0\.500 s is not a finite number", write(tmp_path / "a.wav", samples, kind="f64.wav"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_non_finite_samples_are_found_in_any_channel_without_a_warning(value):
    samples = np.stack([sine(16_000)] * 2, axis=1)
    samples[8000, 1] = value
    content = odd_audio.with_soundfile(samples, 16_000, "WAV", "DOUBLE")
    with pytest.raises(AudioError, match=r"0\.500 s is not a finite number"):
        audio.read(io.BytesIO(content))
    np.testing.assert_array_equal(audio.read(io.BytesIO(content), 1), samples[:, 0].astype(np.float32))


@pytest.mark.filterwarnings("error")
def test_what_the_filter_drives_beyond_the_largest_number_is_not_given():
    samples = np.tile([3.4e38, -3.4e38], 4000).repeat(7).astype(np.float32)
    content = odd_audio.with_soundfile(samples, 44_100, "WAV", "FLOAT")
    with pytest.raises(AudioError, match="is not a finite number"):
        audio.read(io.BytesIO(content))


def test_a_file_without_permission_has_its_error(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", sine(16_000))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    fails("may not read", path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="only POSIX has these permissions")
def test_permission_is_asked_of_the_real_system(tmp_path_factory):
    """As root, who may read everything, a child that has become nobody does the reading."""
    folder = Path(tmp_path_factory.mktemp("locked"))
    path = write(folder / "a.wav", sine(16_000))
    path.chmod(0)
    program = (
        "import os, sys; from labsupport.speech import audio; import soundfile, soxr\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: audio.read(sys.argv[1])\n"
        "except audio.AudioError as error: sys.exit(42 if 'may not read' in error.what else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], cwd=AUDIO.parent.parent).returncode == 42


@pytest.mark.parametrize("part", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("kind", ["u8.wav", "f64.wav", "s16.flac", "vorbis.ogg", "opus.ogg"])
def test_a_truncated_file_has_its_error(tmp_path, kind, part):
    noise = np.random.default_rng(0).normal(size=48_000) / 5
    fails(CUT, cut(write(tmp_path / kind, noise, 48_000, kind), part))


@pytest.mark.parametrize("part", [0.9, 0.1])
def test_a_truncated_mp3_has_its_error(tmp_path, part):
    fails(CUT, cut(write(tmp_path / "a.mp3", sine(16_000, 10), kind="l3.mp3"), part))


def test_an_mp3_behind_a_tag_is_counted_too(tmp_path):
    path = write(tmp_path / "a.mp3", sine(16_000, 10), kind="l3.mp3")
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) + path.read_bytes() + b"TAG" + bytes(125))
    assert len(audio.read(path)) == 160_000
    fails(CUT, cut(path, 0.5))


@pytest.mark.parametrize("header", [4, 12, 40])
@pytest.mark.parametrize("kind", ["s16.wav", "s16.flac", "vorbis.ogg"])
def test_a_header_that_breaks_off_has_its_error(tmp_path, kind, header):
    path = write(tmp_path / kind, sine(16_000), kind=kind)
    path.write_bytes(path.read_bytes()[:header])
    fails(CUT if header >= 12 or kind != "s16.wav" else "no audio", path)


@pytest.mark.parametrize("kind", ["s16.flac", "vorbis.ogg"])
def test_a_hole_in_the_middle_has_the_error_of_a_cut(tmp_path, kind):
    path = write(tmp_path / kind, np.random.default_rng(0).normal(size=48_000) / 5, kind=kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)
    fails(CUT, path)


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


def test_a_flac_without_a_sample_count_is_read_to_its_end(tmp_path):
    path = write(tmp_path / "a.flac", sine(16_000), kind="s16.flac")
    whole = audio.read(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.read(path), whole)
    fails(CUT, cut(path, 0.7))  # within a frame


def test_every_error_says_what_to_do_next(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.wav", write(tmp_path / "a.wav", np.zeros(0))):
        with pytest.raises(AudioError) as caught:
            audio.read(path)
        assert caught.value.hint


# --- windows -----------------------------------------------------------------------------------------------------


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


# --- clips and cards ---------------------------------------------------------------------------------------------


def find_card_faults(folder: Path) -> list[str]:
    """Lists what is wrong between the cards and the recordings of `folder`."""
    known = {clip.path.name: clip for clip in audio.clips()}
    found = {path.name for path in folder.iterdir() if path.suffix not in (".toml", ".py") and path.is_file()}
    faults = [f"{name} has no card" for name in sorted(found - set(known))]
    faults += [f"{name} is not there" for name in sorted(set(known) - found)]
    for name in sorted(found & set(known)):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != known[name].sha256:
            faults.append(f"{name} has another hash than its card")
    return faults


def test_every_card_matches_its_file_and_every_file_has_a_card():
    assert find_card_faults(AUDIO) == []


def test_the_card_check_finds_planted_faults(tmp_path, monkeypatch):
    for path in AUDIO.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(audio.paths, "AUDIO", tmp_path)
    assert find_card_faults(tmp_path) == []
    with (tmp_path / "jfk.flac").open("ab") as file:
        file.write(b"\0")
    (tmp_path / "stray.wav").write_bytes(b"RIFF")
    (tmp_path / "narration.flac").unlink()
    assert find_card_faults(tmp_path) == [
        "stray.wav has no card",
        "narration.flac is not there",
        "jfk.flac has another hash than its card",
    ]


@pytest.mark.parametrize("clip", audio.clips(), ids=lambda clip: clip.name)
def test_a_clip_is_what_its_card_says(clip):
    info = soundfile.info(clip.path)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert len(audio.read(clip.path)) / 16_000 == clip.seconds
    assert clip.path.stat().st_size < 2e6
    assert clip.text == clip.text.strip()
    assert all((clip.text, clip.source, clip.licence, clip.language))


def test_the_narration_has_article_a_s_length():
    assert 90.5 <= audio.clip("narration").seconds <= 91.5


def test_the_narration_s_samples_have_the_recorded_hash():
    samples, _ = soundfile.read(audio.clip("narration").path, dtype="int16")
    assert hashlib.sha256(samples.tobytes()).hexdigest() in (AUDIO / "narration.toml").read_text(encoding="utf-8")


def test_an_unknown_clip_has_an_error_that_names_the_known_ones():
    with pytest.raises(AudioError, match=r"jfk.*narration"):
        audio.clip("moon landing")
