"""FFmpeg and libsndfile give the same exact samples in small blocks, and read nothing but the file they were given."""

from __future__ import annotations

import io
import re

import numpy as np
import odd_audio
import pytest
import soundfile
from fresh_process import run_python, run_together

from labsupport.base.errors import AudioError
from labsupport.speech import audio, decoding
from labsupport.speech.decoding import AvDecoder, SoundfileDecoder, UnknownFormat
from labsupport.speech.parts import Part, Source

RANDOM = np.random.default_rng(0).uniform(-1, 1, 4000)


def part_of(content: bytes) -> Part:
    return Part(io.BytesIO(content), 0, len(content))


def decode(content: bytes, kind: type = AvDecoder) -> np.ndarray:
    decoder = kind(part_of(content), Source("a file"))
    blocks = [block for block, _ in decoder.blocks()]
    decoder.close()
    return np.concatenate(blocks)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
@pytest.mark.parametrize("channels", [1, 2])
def test_both_libraries_give_the_same_samples(subtype, channels):
    content = odd_audio.with_soundfile(RANDOM.reshape(-1, channels), 16_000, "WAV", subtype)
    found = decode(content)
    assert found.dtype == np.float32
    assert found.shape == (4000 // channels, channels)
    np.testing.assert_allclose(found, decode(content, SoundfileDecoder), atol=1e-7)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "flac"])
def test_planar_and_packed_samples_of_every_type_are_exact(codec):
    samples = np.round(RANDOM.reshape(-1, 2) * 32767) / 32768
    found = decode(odd_audio.with_ffmpeg(samples, 48_000, "matroska", codec))
    np.testing.assert_allclose(found, samples, atol=1e-7)


@pytest.mark.filterwarnings("error")
def test_doubles_that_are_too_large_become_infinite():
    assert np.isinf(decode(odd_audio.with_soundfile(np.full(9, 1e300), 16_000, "WAV", "DOUBLE"))).all()


def test_64_channels_stay_apart():
    samples = np.tile(np.arange(64) / 100, (50, 1))
    content = odd_audio.with_soundfile(samples, 16_000, "WAV", "PCM_16")
    np.testing.assert_allclose(decode(content), samples, atol=1e-4)


@pytest.mark.parametrize("kind", [AvDecoder, SoundfileDecoder])
def test_blocks_are_bounded_by_the_values_of_all_channels(kind, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK_VALUES", 8000)
    content = odd_audio.with_soundfile(np.zeros((20_000, 4)), 16_000, "WAV", "PCM_16")
    decoder = kind(part_of(content), Source("a file"))
    lengths = [len(block) for block, _ in decoder.blocks()]
    assert sum(lengths) == 20_000
    assert max(lengths) <= 2000 + 2 * 1024  # FFmpeg gives whole packets


def test_a_slow_rate_is_decoded_in_short_blocks():
    assert decoding.block_frames(1, 1) == 30
    assert decoding.block_frames(48_000, 1 << 30) == 1


# --- what FFmpeg must not do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile {path}\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["concat", "hls", "sdp"],
)
def test_a_file_cannot_make_it_read_another_file_or_the_network(tmp_path, playlist):
    (tmp_path / "secret.wav").write_bytes(odd_audio.build("good.wav"))
    with pytest.raises(UnknownFormat):
        AvDecoder(part_of(playlist.format(path=tmp_path / "secret.wav").encode()), Source("a file"))


def test_nothing_is_written_to_stderr_but_by_us(tmp_path):
    mp3 = odd_audio.build("joined.mp3")[:60_000]
    files = {
        "a.mp3": mp3[500:] + bytes(700) + mp3[:900],
        "a.ogg": odd_audio.build("chained_vorbis.ogg")[:30_000],
        "a.m4a": odd_audio.build("clip.m4a")[:-400],
        "b.mp3": b"\xff\xfb\x90\x44" + np.random.default_rng(0).bytes(5000),
        "a.wav": odd_audio.build("mp3_in.wav").replace(b"\xff\xf3", b"\xff\x00"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in files]
    code = (
        f"from labsupport.speech import audio\nfor name in {names}:\n"
        "    try: audio.read(name)\n    except audio.AudioError: pass\n"
    )
    assert run_together([code]) == [("", "")]


def test_common_files_do_not_import_ffmpeg(tmp_path):
    soundfile.write(tmp_path / "a.flac", RANDOM, 16_000)
    (tmp_path / "a.wav").write_bytes(odd_audio.build("good.wav"))
    names = [str(tmp_path / name) for name in ("a.flac", "a.wav")]
    run_python(
        "import sys\nfrom labsupport.speech import audio\nassert not {'av', 'soundfile', 'soxr'} & set(sys.modules)\n"
        f"for name in {names}: audio.read(name)\nassert 'av' not in sys.modules\n"
    )


# --- tracks ----------------------------------------------------------------------------------------------------------


def locate(samples: np.ndarray) -> float:
    """The frequency of a tone at 16 kHz, in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples))


TONES = [0.3 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000) for hertz in (0, 440, 880)]
TRACKS = odd_audio.with_tracks(TONES, 16_000, ["desk", "guest \x1b[31m"])


@pytest.mark.parametrize(("track", "hertz"), [(2, 440), (3, 880)])
def test_any_track_can_be_read(caplog, track, hertz):
    found = audio.read(io.BytesIO(TRACKS), track=track)
    assert len(found) == 16_000
    assert locate(found) == pytest.approx(hertz)
    assert caplog.messages == []


def test_of_several_tracks_one_is_read_and_the_others_are_told(caplog):
    assert not audio.read(io.BytesIO(TRACKS)).any(), "the first is silent, as a recorder of the screen leaves it"
    (told,) = caplog.messages
    assert "3 audio tracks: 1 (desk, flac, mono, used), 2 (guest" in told
    assert "`--track` chooses another" in told
    assert "\x1b" not in told


@pytest.mark.parametrize(("content", "count"), [(TRACKS, 3), (odd_audio.build("good.wav"), 1)])
def test_a_track_that_is_not_there_is_an_error(content, count):
    with pytest.raises(AudioError, match="no audio track 4") as caught:
        audio.read(io.BytesIO(content), track=4)
    assert caught.value.hint == f"It has {count}, counted from 1."
    assert len(audio.read(io.BytesIO(content), track=1))


def test_the_channels_are_those_of_the_track():
    stereo = odd_audio.with_ffmpeg(np.stack(TONES[:2], 1), 16_000, "matroska", "flac")
    assert audio.count_channels(io.BytesIO(stereo), track=1) == 2
    with pytest.raises(AudioError, match="no audio track 2"):
        audio.count_channels(io.BytesIO(stereo), track=2)


UNKNOWN_FIRST = TRACKS.replace(b"A_FLAC", b"A_ZZZZ", 1)


def test_a_track_that_can_be_decoded_is_preferred(caplog):
    assert locate(audio.read(io.BytesIO(UNKNOWN_FIRST))) == pytest.approx(440)
    assert "3 audio tracks: 1 (desk, of an unknown codec), 2 (guest" in caplog.messages[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (UNKNOWN_FIRST, "coded as something unknown"),
        (odd_audio.with_tracks([TONES[0][:0], TONES[1]], 16_000), "holds no sound"),
    ],
)
def test_a_track_of_no_use_is_an_error_that_names_the_way_out(content, message):
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(io.BytesIO(content), track=1)
    assert "choose another: `--track`" in caught.value.hint


@pytest.mark.parametrize("kind", ["asf", "mp4", "matroska", "mpegts"])
def test_sound_that_ends_before_the_picture_is_whole(kind):
    content = odd_audio.with_ffmpeg(odd_audio.speech(48_000, 4), 48_000, kind, "aac", 64_000, video=True, pictures=9)
    assert len(audio.read(io.BytesIO(content))) == pytest.approx(4 * 16_000, abs=1500)


@pytest.mark.parametrize("muxer", ["mpeg", "mpegts", "avi"])
def test_a_track_that_is_found_late_is_read(muxer):
    """The pictures of 11 s lie before the first packet of sound."""
    content = odd_audio.with_ffmpeg(odd_audio.speech(48_000), 48_000, muxer, "mp2", video=True)
    assert len(audio.read(io.BytesIO(content))) == pytest.approx(11 * 16_000, abs=1000)


# --- what is left of a damaged file ----------------------------------------------------------------------------------

DAMAGED = {  # kind: the file, and whether the container's clock gives the hole's length back
    "good.wav": (lambda: odd_audio.build("good.wav"), False),
    "clip.m4a": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(16_000), 16_000, "ipod", "aac", 48_000), True),
    "clip.webm": (lambda: odd_audio.build("clip.webm"), True),
    "clip.ts": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(48_000), 48_000, "mpegts", "aac", 48_000), True),
    "clip.flv": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(44_100), 44_100, "flv", "libmp3lame", 48_000), True),
    "vorbis.ogg": (lambda: odd_audio.with_soundfile(odd_audio.speech(16_000), 16_000, "OGG", "VORBIS"), True),
    "opus.ogg": (lambda: odd_audio.with_soundfile(odd_audio.speech(16_000), 16_000, "OGG", "OPUS"), True),
    "clip.flac": (lambda: odd_audio.with_soundfile(odd_audio.speech(16_000), 16_000, "FLAC", "PCM_16"), True),
    "clip.mp3": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(16_000), 16_000, "mp3", "libmp3lame", 48_000), False),
    "clip.mp2": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(48_000), 48_000, "mp2", "mp2", 64_000), False),
    "clip.ac3": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(48_000), 48_000, "ac3", "ac3", 64_000), False),
    "clip.aiff": (lambda: odd_audio.with_soundfile(odd_audio.speech(16_000), 16_000, "AIFF", "PCM_16"), False),
    "clip.tta": (lambda: odd_audio.with_ffmpeg(odd_audio.speech(16_000), 16_000, "tta", "tta"), False),
}


RAW = ("good.wav", "clip.aiff")  # any bytes are samples
WITHOUT_SIZES = ("clip.ts", "clip.mp2", "clip.ac3")


def overwrite(content: bytes, seed: int) -> bytes:
    """A twentieth of the bytes, in the midst, by noise."""
    size, start = len(content) // 20, len(content) * 2 // 5
    return content[:start] + np.random.default_rng(seed).bytes(size) + content[start + size :]


@pytest.mark.parametrize("kind", [kind for kind in DAMAGED if kind not in RAW])
@pytest.mark.parametrize("seed", [0, 1])
def test_damage_in_the_midst_is_an_error_or_told(caplog, kind, seed):
    build, _ = DAMAGED[kind]
    error = None
    try:
        audio.read(io.BytesIO(overwrite(build(), seed)))
    except AudioError as found:
        error = found
    told = error.hint if error else " ".join(caplog.messages)
    assert re.search("`--allow-damaged`|holds no sound from|cannot be decoded", told)


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_left_of_a_damaged_file_is_all_that_is_not_damaged(caplog, kind):
    build, with_clock = DAMAGED[kind]
    whole = audio.read(io.BytesIO(build()))
    found = audio.read(io.BytesIO(overwrite(build(), 0)), allow_damaged=True)
    lost = 0 if with_clock or kind in RAW else 2 * 16_000
    assert len(whole) - lost - 500 <= len(found) <= len(whole) + 1000
    if with_clock:
        ends = [np.abs(samples[9 * 16_000 :][:30_400]).reshape(-1, 800).max(axis=1) for samples in (whole, found)]
        assert np.corrcoef(*ends)[0, 1] > 0.9, "the end is not where it was"
    assert kind in RAW or caplog.messages


@pytest.mark.parametrize("kind", [kind for kind in DAMAGED if kind != "clip.m4a"])
def test_what_is_left_of_a_cut_file_is_its_start(caplog, kind):
    content = DAMAGED[kind][0]()
    found = audio.read(io.BytesIO(content[: len(content) * 6 // 10]), allow_damaged=True)
    assert 5 * 16_000 < len(found) < 7.2 * 16_000
    assert kind in WITHOUT_SIZES or "cut off or damaged" in caplog.messages[0]


@pytest.mark.parametrize("at", range(100, 100_000, 9_000))
def test_each_hole_in_a_flac_is_told(caplog, at):
    content = bytearray(odd_audio.with_soundfile(odd_audio.speech(16_000), 16_000, "FLAC", "PCM_16"))
    content[at : at + 30] = bytes(30)
    assert len(audio.read(io.BytesIO(content), allow_damaged=True)) == pytest.approx(11 * 16_000, abs=4096)
    assert "cut off or damaged" in caplog.messages[0]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_whole_file_is_read_alike_where_damage_is_allowed(caplog, kind):
    content = io.BytesIO(DAMAGED[kind][0]())
    strict, lenient = audio.read(content), audio.read(content, allow_damaged=True)
    assert abs(len(strict) - len(lenient)) <= 16
    differs = np.abs(strict[: len(lenient)] - lenient[: len(strict)]) > 2e-3
    assert differs.mean() < 0.01, "FFmpeg and libsndfile decode Opus not quite alike"
    assert caplog.messages == []
