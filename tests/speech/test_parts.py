"""A part reads like the bytes it stands for, patched; marks are found wherever they lie; which sizes mean "unknown"."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import AudioError
from labsupport.speech import parts
from labsupport.speech.parts import Part, Source, find_all, is_unknown, read_at, read_tag_size

CONTENT = bytes(range(100))


@settings(deadline=None)
@given(
    st.integers(0, 100),
    st.integers(0, 100),
    st.dictionaries(st.integers(0, 90), st.binary(min_size=1, max_size=8), max_size=3),
    st.lists(st.tuples(st.integers(0, 110), st.integers(0, 30)), max_size=5),
)
def test_a_part_reads_like_its_own_bytes(start, length, patches, reads):
    end = min(100, start + length)
    part = Part(io.BytesIO(CONTENT), start, end)
    part.patches = patches
    wanted = bytearray(CONTENT[start:end])
    for offset, new in patches.items():
        wanted[offset : offset + len(new)] = new[: max(0, len(wanted) - offset)] if offset < len(wanted) else b""
    reference = io.BytesIO(wanted)
    assert part.read() == bytes(wanted)
    for offset, count in reads:
        assert part.seek(offset) == reference.seek(offset)
        assert part.read(count) == reference.read(count)
        assert part.tell() == reference.tell()
    assert part.seek(0, os.SEEK_END) == len(wanted)
    assert part.seek(-len(wanted), os.SEEK_CUR) == 0


def test_a_fault_of_the_disk_ends_a_part_and_is_not_lost():
    class Broken(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    part = Part(Broken(CONTENT), 0, 100)
    assert part.read(10) == b""
    assert part.fault.errno == 5


def test_no_file_has_an_offset_beyond_what_systems_count():
    assert read_at(io.BytesIO(CONTENT), 1 << 70, 4) == b""
    assert read_at(io.BytesIO(CONTENT), 98, 4) == CONTENT[98:]


def test_marks_are_found_also_across_pieces(monkeypatch):
    monkeypatch.setattr(parts, "PIECE", 64)
    for at in (0, 30, 60, 63, 64, 65, 190):
        content = bytes(at) + b"MARK" + bytes(200)
        assert list(find_all(io.BytesIO(content), b"MA..", 0, len(content))) == [at]
        assert list(find_all(io.BytesIO(content), b"MA..", at + 1, len(content))) == []
        assert list(find_all(io.BytesIO(content), b"MA..", 0, at + 3)) == []


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x7FFFFFDB, 0xFFFFFFDB, 0xFFFFFFFF, 2**64 - 1])
def test_what_streaming_writers_leave_is_unknown(size):
    assert is_unknown(size)


@pytest.mark.parametrize("size", [1, 44, 1_000_000_000, 3_000_000_000, 4_000_000_000])
def test_other_sizes_are_meant(size):
    assert not is_unknown(size)


def test_the_size_of_a_tag():
    assert read_tag_size(b"ID3\x04\x00\x00\x00\x00\x02\x01") == 10 + 257
    assert read_tag_size(b"RIFF\x00\x00\x00\x00WAVE") == read_tag_size(b"ID3") == 0


# --- what is wanted of a file ----------------------------------------------------------------------------------------


def test_damage_is_an_error_that_names_the_way_out():
    with pytest.raises(AudioError, match=r"cut off or damaged: a page is missing\.") as caught:
        Source("clip.ogg").report_damage("a page is missing")
    assert "`--allow-damaged`" in caught.value.hint


def test_damage_is_told_once_where_what_is_left_is_wanted(caplog):
    source = Source("clip\x1b.ogg", allow_damaged=True)
    source.report_missing(7)
    source.report_damage("a page is missing")
    assert caplog.messages == [
        r"clip\x1b.ogg: cut off or damaged: 7 bytes of sound are missing at its end. What is left is taken."
    ]


@pytest.mark.parametrize("track", [0, 3, 99])
def test_a_track_that_is_not_there_is_an_error(track):
    with pytest.raises(AudioError, match=f"no audio track {track}") as caught:
        Source("clip.mkv", track).check_track(2)
    assert caught.value.hint == "It has 2, counted from 1."
