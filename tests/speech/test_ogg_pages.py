"""Every stream of a chained Ogg file is read, and every lost, changed or cut page is an error."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import odd_audio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import AudioError
from labsupport.speech import audio
from labsupport.speech.ogg_pages import find_links
from labsupport.speech.parts import FFMPEG, SOUNDFILE_FIRST, Source

SECONDS = 2.0


def encode(
    kind: str, rate: int = 16_000, channels: int = 1, serial: int = 1, last: bool = True, length: float = SECONDS
) -> bytes:
    samples = odd_audio.speech(rate, length)
    samples = samples if channels == 1 else np.stack([samples] * channels, 1)
    if kind == "FLAC":
        data = odd_audio.with_ffmpeg(samples, rate, "ogg", "flac")
    else:
        data = odd_audio.with_soundfile(samples, rate, "OGG", kind)
    return odd_audio.number_ogg(data, serial, last)


def seconds(data: bytes) -> float:
    return len(audio.read(io.BytesIO(data))) / audio.SAMPLE_RATE


def split(data: bytes) -> list[bytes]:
    """The pages."""
    return [b"OggS" + page for page in data.split(b"OggS")[1:]]


VORBIS = encode("VORBIS")
KINDS = ("VORBIS", "OPUS", "FLAC")


@pytest.mark.parametrize("kind", KINDS)
def test_chained_streams_are_all_read_whatever_their_rate_and_channels(kind):
    links = [encode(kind, 16_000, 1, 1), encode(kind, 48_000, 2, 2), encode(kind, 24_000, 1, 3)]
    one, two = audio.read(io.BytesIO(links[0])), audio.read(io.BytesIO(links[1]))
    found = audio.read(io.BytesIO(b"".join(links)))
    assert len(found) == len(one) * 3
    np.testing.assert_allclose(found[: len(one)], one, atol=1e-6)
    np.testing.assert_allclose(found[len(one) : 2 * len(one)], two, atol=1e-6)


def test_streams_of_other_kinds_and_with_the_same_number_are_read():
    data = b"".join(encode(kind, serial=7) for kind in KINDS)
    assert seconds(data) == pytest.approx(3 * SECONDS, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_radio_station_may_leave_the_end_mark_out_before_the_next_stream(kind):
    data = encode(kind, serial=1, last=False) + encode(kind, serial=2)
    assert seconds(data) == pytest.approx(2 * SECONDS, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_of_a_running_stream_begins_with_a_gap(kind):
    pages = split(encode(kind))
    running = b"".join(pages[:2] + pages[3:])  # the headers, and all but the first sound
    assert 0.5 < seconds(running) < SECONDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_page_is_an_error(kind):
    pages = split(encode(kind, length=6))
    first = next(i for i, page in enumerate(pages) if struct.unpack_from("<q", page, 6)[0] > 0)
    with pytest.raises(AudioError, match="pages are missing"):
        seconds(b"".join(pages[: first + 1] + pages[first + 2 :]))


def test_the_end_mark_is_missing_at_the_end():
    with pytest.raises(AudioError, match="does not carry the end mark"):
        seconds(encode("VORBIS", last=False))


def test_a_stream_without_its_start_is_an_error():
    with pytest.raises(AudioError, match="does not begin with the first page"):
        seconds(b"".join(split(encode("VORBIS"))[1:]))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_each_changed_or_missing_byte_is_found(data):
    content = bytearray(VORBIS)
    at = data.draw(st.integers(1, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    with pytest.raises(AudioError):
        find_links(io.BytesIO(content), len(content), Source("a.ogg"))


@pytest.mark.parametrize("after", [odd_audio.ID3V1, odd_audio.ID3, bytes(1000)], ids=["ID3v1", "ID3v2", "zeros"])
def test_what_follows_the_last_stream_is_no_damage(after):
    assert seconds(VORBIS + after) == seconds(VORBIS) == SECONDS
    assert seconds(VORBIS + after + VORBIS) == 2 * SECONDS


@pytest.mark.timeout(20)
@pytest.mark.parametrize("allow_damaged", [False, True])
@pytest.mark.parametrize("at", [4, 5, 22, 30, 57])
def test_damage_where_the_next_stream_begins_is_found(at, allow_damaged):
    """It once went round for ever."""
    content = bytearray(VORBIS + odd_audio.number_ogg(VORBIS, 7))
    content[len(VORBIS) + at] ^= 1
    source = Source("a.ogg", allow_damaged=allow_damaged)
    with contextlib.nullcontext() if allow_damaged else pytest.raises(AudioError, match=f"byte {len(VORBIS)} is dam"):
        assert find_links(io.BytesIO(content), len(content), source)[0].start == 0
    assert source.damaged == allow_damaged


def test_libsndfile_reads_what_it_reads_well():
    def libraries(content: bytes) -> list[tuple[str, ...]]:
        return [part.libraries for part in find_links(io.BytesIO(content), len(content), Source("a.ogg"))]

    assert libraries(VORBIS) == [SOUNDFILE_FIRST]
    assert libraries(encode("VORBIS", last=False) + VORBIS) == [
        FFMPEG,
        SOUNDFILE_FIRST,
    ]


def test_streams_side_by_side_are_one_part():
    theora = bytearray(split(VORBIS)[0])
    theora[14:18] = struct.pack("<I", 99)
    ended = bytearray(theora)
    ended[5], ended[18] = 4, 1
    pages = split(VORBIS)
    content = b"".join([odd_audio.with_checksum(theora), pages[0], odd_audio.with_checksum(ended), *pages[1:]])
    (part,) = find_links(io.BytesIO(content), len(content), Source("a.ogg"))
    assert part.libraries == FFMPEG
