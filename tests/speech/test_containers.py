"""Containers show where each recording begins, what is missing at their end, and what is encrypted."""

from __future__ import annotations

import contextlib
import functools
import io
import struct

import numpy as np
import odd_audio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import AudioError
from labsupport.speech import audio, containers
from labsupport.speech.parts import FFMPEG, SOUNDFILE_FIRST, Source

SECONDS = 2.0
BY_FFMPEG = {  # file: container, codec, rate
    "m4a": ("ipod", "aac", 16_000),
    "alac.m4a": ("ipod", "alac", 16_000),
    "mov": ("mov", "pcm_s16be", 16_000),
    "3gp": ("3gp", "libopencore_amrnb", 8000),
    "webm": ("webm", "libopus", 48_000),
    "mkv": ("matroska", "flac", 16_000),
    "wma": ("asf", "wmav2", 16_000),
    "avi": ("avi", "pcm_s16le", 16_000),
    "tta": ("tta", "tta", 16_000),
    "amr": ("amr", "libopencore_amrnb", 8000),
    "flv": ("flv", "aac", 16_000),
}
BY_SOUNDFILE = {"flac": "FLAC", "aiff": "AIFF", "au": "AU", "caf": "CAF", "w64": "W64"}
WITHOUT_SIZES = ("amr",)  # a cut between two of its frames shows nowhere


@functools.cache
def encode(kind: str, seconds: float = SECONDS, rate: int | None = None) -> bytes:
    if kind in BY_SOUNDFILE:
        rate = rate or 16_000
        return odd_audio.with_soundfile(odd_audio.speech(rate, seconds), rate, BY_SOUNDFILE[kind], "PCM_16")
    muxer, codec, rate = BY_FFMPEG[kind]
    return odd_audio.with_ffmpeg(
        odd_audio.speech(rate, seconds), rate, muxer, codec, 12_200 if "amr" in codec else 48_000
    )


KINDS = [*BY_FFMPEG, *BY_SOUNDFILE]


def read(content: bytes) -> np.ndarray:
    return audio.read(io.BytesIO(content))


@functools.cache
def decode(kind: str) -> np.ndarray:
    return read(encode(kind))


def find(content: bytes) -> list[bytes]:
    parts = containers.find_parts(io.BytesIO(content), Source("a file"))
    return [content[part.start : part.end] for part in parts]


@pytest.mark.parametrize("kind", KINDS)
def test_one_recording_is_one_part(kind):
    assert find(encode(kind)) == [encode(kind)]
    assert len(read(encode(kind))) == pytest.approx(SECONDS * audio.SAMPLE_RATE, abs=2100)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "avi"])
def test_joined_recordings_are_all_read(kind):
    other = encode(kind, 1.0)
    joined = encode(kind) + other + encode(kind)
    if kind != "w64":  # its last chunk may be padded
        assert find(joined) == [encode(kind), other, encode(kind)]
    one, two = read(encode(kind)), read(other)
    found, wanted = read(joined), np.concatenate([one, two, one])
    assert abs(len(found) - len(wanted)) <= 2
    rings = np.abs(found[: len(wanted)] - wanted[: len(found)]) > 1e-5  # the resampler's filter, over the joints
    assert rings.mean() < 0.01


@pytest.mark.parametrize("tag", [b"", odd_audio.ID3, odd_audio.ID3V1], ids=["", "ID3v2", "ID3v1"])
def test_joined_flacs_of_other_rates_and_with_tags_are_all_read(tag):
    one, two = encode("flac"), encode("flac", 1.0, 44_100)
    start = tag if tag == odd_audio.ID3 else b""
    joined = start + one + tag + two + (tag if not start else b"")
    np.testing.assert_array_equal(read(joined), np.concatenate([read(one), read(two)]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_SIZES])
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_a_cut_anywhere_is_found_before_sound_is_lost(kind, data):
    content = encode(kind)
    near_end = st.integers(1, min(400, len(content) - 13)).map(lambda count: len(content) - count)
    end = data.draw(st.one_of(st.integers(12, len(content) - 1), near_end))
    assert_found(content, end)


def assert_found(content: bytes, end: int) -> None:
    """Asserts that reading `content` up to `end` is an error, unless no sound is behind."""
    with contextlib.suppress(AudioError):
        assert len(read(content[:end])) == len(read(content))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("w64", "avi")])
def test_a_tag_before_it_is_no_part_of_it(kind):
    np.testing.assert_array_equal(read(odd_audio.ID3 + encode(kind)), decode(kind))


@pytest.mark.parametrize("flags", [{"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}, {}])
def test_a_cut_mp4_is_found_also_in_fragments(flags):
    content = odd_audio.with_ffmpeg(odd_audio.speech(16_000, 2), 16_000, "mp4", "aac", 48_000, **flags)
    assert len(read(content)) >= 2 * audio.SAMPLE_RATE
    for end in range(1000, len(content), 131):
        if content[end + 4 : end + 8] != b"moof":  # a cut between two fragments shows nowhere
            assert_found(content, end)
    with pytest.raises(AudioError, match="cut off"):
        read(content[: len(content) // 2])


def test_an_interrupted_recording_lacks_its_index():
    content = encode("m4a")
    with pytest.raises(AudioError, match="no index"):
        read(content[: content.index(b"moov") - 4])


def test_a_webm_that_was_streamed_has_no_sizes_but_shows_a_cut_in_a_block():
    content = odd_audio.with_ffmpeg(odd_audio.speech(48_000, 2), 48_000, "webm", "libopus", 32_000, live="1")
    assert b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" in content
    assert len(read(content)) == pytest.approx(2 * audio.SAMPLE_RATE, abs=400)
    block = content.rindex(b"\xa3")  # a SimpleBlock
    for end in range(block + 1, len(content)):
        with pytest.raises(AudioError, match="cut off"):
            read(content[:end])


def test_an_aiff_that_libsndfile_does_not_take_may_be_taken_by_ffmpeg():
    parts = containers.find_parts(io.BytesIO(encode("aiff")), Source("a file"))
    assert [part.libraries for part in parts] == [SOUNDFILE_FIRST]


def test_a_flac_that_does_not_say_how_long_it_is_goes_to_ffmpeg():
    unknown = odd_audio.claim_flac(encode("flac"), 0)
    parts = containers.find_parts(io.BytesIO(unknown + encode("flac")), Source("a file"))
    assert [part.libraries for part in parts] == [FFMPEG, SOUNDFILE_FIRST]
    np.testing.assert_array_equal(read(unknown), decode("flac"))


# --- encryption and codecs -------------------------------------------------------------------------------------------


def refuses(content: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read(content)
    assert "damaged" not in caught.value.what


CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def test_an_encrypted_mp4_is_called_so():
    content = odd_audio.with_ffmpeg(odd_audio.speech(16_000, 1), 16_000, "mp4", "aac", 48_000, **CENC)
    refuses(content, "encrypted")


@pytest.mark.parametrize("mark", [b"enca", b"drms", b"aavd"])
def test_the_marks_of_protected_mp4s_are_known(mark):
    refuses(encode("m4a").replace(b"mp4a", mark), "encrypted")


def element(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + bytes([0x40 | len(content) >> 8, len(content) & 0xFF]) + content


def test_an_encrypted_matroska_is_called_so():
    encryption = element("6d80", element("6240", element("5035", element("47e1", b"\x05"))))
    track = element("ae", element("d7", b"\x01") + element("83", b"\x02") + element("86", b"A_OPUS") + encryption)
    content = element("1a45dfa3", element("4282", b"webm")) + element("18538067", element("1654ae6b", track))
    refuses(content, "encrypted")


def test_an_encrypted_wma_is_called_so():
    content = encode("wma")
    size = struct.unpack_from("<Q", content, 16)[0]
    lock = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q", 24)
    longer = content[:16] + struct.pack("<Q", size + 24) + content[24:size] + lock + content[size:]
    refuses(longer, "encrypted")


UNSUPPORTED = {
    "'ac-4'": lambda: encode("m4a").replace(b"mp4a", b"ac-4").replace(b"esds", b"free"),
    "'A_QUUX'": lambda: encode("webm").replace(b"A_OPUS", b"A_QUUX"),
    "format 0x1234 of wav": lambda: odd_audio.make_wav(bytes(4000), 8000, tag=0x1234),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_codec_without_a_decoder_is_named(name):
    refuses(UNSUPPORTED[name](), f"coded as {name}, for which there is no decoder")


def test_a_name_for_what_nothing_names():
    assert containers.name_codec(io.BytesIO(b"OggS")) == "something unknown"
