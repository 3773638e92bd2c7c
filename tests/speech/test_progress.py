"""Joined mp3s are read whole and counted apart; a file that holds less than its header states is found."""

from __future__ import annotations

import io

import numpy as np
import odd_audio
import pytest

from labsupport.base.errors import AudioError
from labsupport.speech.decoding import AvDecoder, UnknownFormat
from labsupport.speech.parts import Part, Source
from labsupport.speech.progress import read_frame_count


def decode(content: bytes) -> float:
    """The seconds that FFmpeg finds."""
    decoder = AvDecoder(Part(io.BytesIO(content), 0, len(content)), Source("a file"))
    return sum(len(block) / rate for block, rate in decoder.blocks())


def mp3(rate: int = 16_000, seconds: float = 2.0, channels: int = 1, **options: str) -> bytes:
    samples = odd_audio.speech(rate, seconds)
    samples = samples if channels == 1 else np.stack([samples] * channels, 1)
    return odd_audio.with_ffmpeg(samples, rate, "mp3", "libmp3lame", 48_000, **options)


BARE = {"write_xing": "0", "id3v2_version": "0"}
SECOND = {
    "the same": mp3(),
    "another rate": mp3(44_100),
    "another rate and stereo": mp3(44_100, channels=2),
    "a rate of another MPEG version": mp3(8000),
    "no header and no tag": mp3(**BARE),
    "an old tag at its end": mp3() + odd_audio.ID3V1,
    "a long tag": b"ID3\x04\x00\x00\x00\x06\x00\x00" + np.random.default_rng(1).bytes(6 << 14) + mp3(),
}


@pytest.mark.parametrize("first", [{}, BARE], ids=["with header", "bare"])
@pytest.mark.parametrize("second", SECOND)
def test_joined_mp3s_give_all_their_sound(first, second):
    assert decode(mp3(**first) + SECOND[second]) == pytest.approx(4.1, abs=0.2)  # encoders add up to 0.1 s each


@pytest.mark.parametrize("which", [0, 1])
def test_a_cut_in_either_of_two_joined_mp3s_is_found(which):
    parts = [mp3(seconds=4), mp3(seconds=4)]
    parts[which] = parts[which][: len(parts[which]) * 8 // 10]
    with pytest.raises(AudioError, match=r"it should hold \d+ frames and holds \d+"):
        decode(b"".join(parts))


def test_the_count_of_frames_stands_in_one_place():
    start = b"\xff\xf3\x40\xc4"
    assert read_frame_count(start + bytes(9) + b"Info\0\0\0\x0f\0\0\0\x07") == 7
    assert read_frame_count(start + bytes(17) + b"Xing\0\0\0\x01\0\0\x01\0") == 256
    assert read_frame_count(start + bytes(32) + b"VBRI\0\1" + bytes(8) + b"\0\0\0\x09") == 9
    assert read_frame_count(start + bytes(32) + b"Xing\0\0\0\x02\0\0\x01\0") is None, "a table without a count"
    assert read_frame_count(start + bytes(20) + b"Info\0\0\0\x0f\0\0\0\x07") is None, "letters within the sound"


def test_what_only_looks_like_mp3_is_refused():
    noise = np.random.default_rng(0).bytes(3000)
    frame = mp3(**BARE)[:300]
    with pytest.raises((AudioError, UnknownFormat)):
        decode(frame + noise + frame + noise)


@pytest.mark.parametrize(("muxer", "codec"), [("wv", "wavpack"), ("tta", "tta"), ("flv", "libmp3lame")])
def test_a_stated_duration_is_held_against_what_is_there(muxer, codec):
    content = odd_audio.with_ffmpeg(odd_audio.speech(44_100, 4), 44_100, muxer, codec, 64_000)
    assert decode(content) == pytest.approx(4, abs=0.2)
    with pytest.raises(AudioError, match=r"it should hold 4\.\d\d s and holds|breaks off at"):
        decode(content[: len(content) // 2])


def test_joined_raw_streams_may_have_a_tag_between():
    content = odd_audio.with_ffmpeg(odd_audio.speech(16_000, 2), 16_000, "adts", "aac", 48_000)
    assert decode(content + odd_audio.ID3 + content) > 3.9
