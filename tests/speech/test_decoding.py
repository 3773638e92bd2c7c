"""FFmpeg and libsndfile give the same exact samples in small blocks, and read nothing but the file they were given."""

from __future__ import annotations

import io

import numpy as np
import odd_audio
import pytest
import soundfile
from fresh_process import run_python, run_together

from labsupport.speech import decoding
from labsupport.speech.decoding import AvDecoder, SoundfileDecoder, UnknownFormat
from labsupport.speech.parts import Part

RANDOM = np.random.default_rng(0).uniform(-1, 1, 4000)


def part_of(content: bytes) -> Part:
    return Part(io.BytesIO(content), 0, len(content))


def decode(content: bytes, kind: type = AvDecoder) -> np.ndarray:
    decoder = kind(part_of(content), "a file")
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
    decoder = kind(part_of(content), "a file")
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
        AvDecoder(part_of(playlist.format(path=tmp_path / "secret.wav").encode()), "a file")


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
