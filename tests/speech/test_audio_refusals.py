"""Every kind of damage, and all that is beyond a limit, is reported by its own message."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import odd_audio
import pytest
from sound_files import sine, write

from labsupport.base.errors import AudioError
from labsupport.base.paths import AUDIO
from labsupport.speech import audio

CUT = "The file is cut off or damaged"


def cut(path: Path, part: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


# --- limits -----------------------------------------------------------------------------------------------------------


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


# --- refusing what is bad ---------------------------------------------------------------------------------------------


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
