"""Every kind of file is read, every kind of damage reported by its own message; windows; the clips and their cards."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
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


# --- refusing what is bad ----------------------------------------------------------------------------------------


def with_data_size(wav: bytes, size: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


def fails(message: str, path: Path) -> None:
    """Asserts that reading `path` raises an AudioError that says `message` and names the file."""
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path)
    assert caught.value.where == path


CUT = "The file is cut off or damaged"


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
