"""The sound of a wav is found whatever its header's sizes say, but a claim that the file cannot hold is an error."""

from __future__ import annotations

import io
import struct

import numpy as np
import odd_audio
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import AudioError
from labsupport.speech import audio
from labsupport.speech.parts import Source
from labsupport.speech.wav_chunks import find_wavs, read_tag

SAMPLES = np.random.default_rng(0).integers(-9000, 9000, 2000).astype("<i2")
EXACT = SAMPLES / np.float32(32768)
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"some encoder 1"
WAV = odd_audio.make_wav(SAMPLES.tobytes(), 16_000)


def with_size(size: int, riff: int | None = None, before: bytes = b"", after: bytes = b"", wav: bytes = WAV) -> bytes:
    riff = 36 + 4000 if riff is None else riff
    return wav[:4] + struct.pack("<I", riff) + wav[8:36] + before + b"data" + struct.pack("<I", size) + wav[44:] + after


def read(wav: bytes) -> np.ndarray:
    return audio.read(io.BytesIO(wav))


UNKNOWN = [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFFFFFF, 0xFFFFFFDB, 0xFFFFFFF0, 0x7FFFFFDB]


@pytest.mark.parametrize("before", [b"", LIST], ids=["", "after a list"])
@pytest.mark.parametrize("size", UNKNOWN, ids=hex)
def test_a_size_that_a_streaming_writer_left_means_to_the_end(size, before):
    np.testing.assert_array_equal(read(with_size(size, before=before)), EXACT)


@pytest.mark.parametrize("riff", [0, 5, 36, 10**9, 3 * 10**9, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 4000, 0xFFFFFFFF])
def test_the_size_of_the_whole_does_not_matter(size, riff):
    np.testing.assert_array_equal(read(with_size(size, riff)), EXACT)


@pytest.mark.parametrize("size", [2, 1000, 3990])
def test_sound_behind_the_stated_end_is_not_lost(size):
    np.testing.assert_array_equal(read(with_size(size)), EXACT)


@pytest.mark.parametrize("after", [LIST, b"id3 \x04\x00\x00\x00abcd", odd_audio.ID3, odd_audio.ID3V1, b"\x00", b"abc"])
def test_what_is_no_sound_behind_it_is_not_read(after):
    np.testing.assert_array_equal(read(with_size(4000, after=after)), EXACT)


@pytest.mark.parametrize("size", [4001, 5000, 10**9, 3 * 10**9, 4 * 10**9])
def test_a_claim_that_the_file_cannot_hold_is_an_error(size):
    with pytest.raises(AudioError, match=f"{size - 4000} bytes of sound are missing"):
        read(with_size(size))


@pytest.mark.parametrize(("size", "after"), [(0, b""), (0, LIST), (0xFFFFFFFF, b"")])
def test_no_sound_at_all_is_an_error(size, after):
    with pytest.raises(AudioError, match="no sound at all"):
        read(WAV[:40] + struct.pack("<I", size) + after)


def test_a_tag_before_the_header_is_not_read():
    np.testing.assert_array_equal(read(odd_audio.ID3 + with_size(4000)), EXACT)


def test_a_header_that_breaks_off_is_an_error():
    for end in range(12, 44):
        with pytest.raises(AudioError, match="its header breaks off"):
            read(WAV[:end])


@given(st.lists(st.sampled_from([0, 4000, 0x7FFFF000, 0xFFFFFFFF, 1000]), min_size=1, max_size=4), st.booleans())
def test_joined_wavs_are_all_read(sizes, listed):
    joined = b"".join(with_size(size, after=LIST if listed and size == 4000 else b"") for size in sizes)
    np.testing.assert_array_equal(read(joined), np.tile(EXACT, len(sizes)))


def with_format(form: str, **how) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, SAMPLES, 16_000, format=form, subtype="PCM_16", **how)
    return stream.getvalue()


@pytest.mark.parametrize(("form", "how"), [("RF64", {}), ("WAV", {"endian": "BIG"}), ("WAVEX", {})])
def test_the_other_headers(form, how):
    wav = with_format(form, **how)
    np.testing.assert_array_equal(read(wav), EXACT)
    with pytest.raises(AudioError, match="30 bytes of sound are missing"):
        read(wav[:-30])


@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63, 0xFFFFFFFF])
def test_a_64_bit_size_that_a_streaming_writer_left_means_to_the_end(size):
    wav = with_format("RF64")
    at = wav.index(b"ds64") + 16
    np.testing.assert_array_equal(read(wav[:at] + struct.pack("<Q", size) + wav[at + 8 :]), EXACT)


def test_the_number_of_the_coding():
    assert read_tag(io.BytesIO(WAV)) == 1
    assert read_tag(io.BytesIO(with_format("WAVEX"))) == 1
    assert read_tag(io.BytesIO(odd_audio.build("gsm.wav"))) == 0x31
    assert read_tag(io.BytesIO(b"RIFF")) == 0


def test_many_empty_chunks_do_not_hang():
    with pytest.raises(AudioError, match="its header breaks off"):
        find_wavs(io.BytesIO(WAV[:12] + b"JUNK\0\0\0\0" * 5000), 40_012, Source("a.wav"))
