"""The chunks of a wav file: where its sound lies, also where the header's sizes are wrong, and how it is coded.

The format: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991), chapter 3; RF64
and BW64 for more than 4 GB: EBU Tech 3306 and ITU-R BS.2088.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from labsupport.speech.parts import (
    FFMPEG,
    SOUNDFILE_FIRST,
    Part,
    Readable,
    Source,
    find_all,
    is_unknown,
    read_at,
)

START = rb"(RIFF|RIFX|RF64|BW64)....WAVE"
SOUNDFILE_TAGS = (1, 2, 3, 6, 7, 0x11)  # PCM, MS ADPCM, float, A-law, µ-law, IMA ADPCM
EXTENSIBLE = 0xFFFE
MUSIC_TAG = rb"ID3[\x02-\x04]|TAG|APETAGEX"  # what music programs append, and no chunk
KNOWN_CHUNK = rb"LIST|bext|fact|cue |smpl|inst|PEAK|JUNK|junk|PAD |iXML|axml|id3 |ID3 |afsp|DISP|cart|FLLR"
MOST_CHUNKS = 1000  # before the sound


@dataclass
class Header:
    """What stands before the sound: `size` is the sound's as stated, at offset `size_at` as struct's `size_type`."""

    order: str
    tag: int = 0
    data: int = 0
    size: int = 0
    size_at: int = 0
    size_type: str = "I"


def find_wavs(file: Readable, size: int, source: Source) -> list[Part]:
    """The wav files that were joined in one of `size` bytes; AudioError where sound is missing at the end."""
    parts: list[Part] = []
    start = 0
    while re.match(START, read_at(file, start, 12), re.DOTALL):
        parts.append(_find_wav(file, start, size, source))
        start = parts[-1].end
    return parts


def read_tag(file: Readable) -> int:
    """The number in a wav's header for how its sound is coded."""
    return _read_header(file, 0).tag


def _find_wav(file: Readable, start: int, size: int, source: Source) -> Part:
    header = _read_header(file, start)
    if not header.data:
        raise source.damage_error("its header breaks off or is damaged")
    end = _find_end(file, header, size, source)
    libraries = SOUNDFILE_FIRST if header.tag in SOUNDFILE_TAGS else FFMPEG
    part = Part(file, start, _skip_chunks(file, end, size), libraries)
    if end != header.data + header.size:
        part.end = end
        part.patches = {
            4: struct.pack(f"{header.order}I", min(end - start - 8, 0xFFFFFFFF)),
            header.size_at - start: _pack_size(header, end - header.data),
        }
    return part


def _pack_size(header: Header, size: int) -> bytes:
    form = f"{header.order}{header.size_type}"
    return struct.pack(form, min(size, 256 ** struct.calcsize(form) - 1))


def _read_header(file: Readable, start: int) -> Header:
    header = Header(">" if read_at(file, start, 4) == b"RIFX" else "<")
    at = start + 12
    for _ in range(MOST_CHUNKS):
        head = read_at(file, at, 8)
        if len(head) < 8 or not _is_name(head[:4]):
            break
        (length,) = struct.unpack(f"{header.order}I", head[4:])
        if head[:4] == b"fmt ":
            header.tag = _parse_tag(header.order, read_at(file, at + 8, min(length, 40)))
        elif head[:4] == b"ds64":
            header.size_at, header.size_type = at + 16, "Q"
        elif head[:4] == b"data":
            return _with_size(file, header, at, length)
        at += 8 + length + length % 2
    return header


def _with_size(file: Readable, header: Header, at: int, length: int) -> Header:
    header.data, header.size = at + 8, length
    if header.size_type == "I" or length != 0xFFFFFFFF:
        header.size_at, header.size_type = at + 4, "I"
    else:
        (header.size,) = struct.unpack(f"{header.order}Q", read_at(file, header.size_at, 8))
    return header


def _parse_tag(order: str, form: bytes) -> int:
    """How the sound is coded; the extensible form holds the tag at the start of its GUID."""
    tags = [struct.unpack_from(f"{order}H", form, at)[0] for at in (0, 24) if len(form) >= at + 2]
    return tags[-1] if tags and tags[0] == EXTENSIBLE else tags[0] if tags else 0


def _is_name(name: bytes) -> bool:
    return re.fullmatch(rb"[ -~]{4}", name) is not None


def _find_end(file: Readable, header: Header, size: int, source: Source) -> int:
    """Where the sound ends, which need not be where the header says."""
    stated = header.data + header.size
    if stated > size and not is_unknown(header.size):
        source.report_missing(stated - size)
    if stated <= size and any(_is_end(file, at, size) for at in (stated + header.size % 2, stated)):
        return stated
    return next(find_all(file, START, header.data, size), size)


def _is_end(file: Readable, at: int, size: int) -> bool:
    """Whether no more sound follows at an offset, but another chunk, another file, a tag or nothing."""
    head = read_at(file, at, 12)
    if len(head) < 8 or re.match(rb"%b|%b|%b" % (START, MUSIC_TAG, KNOWN_CHUNK), head, re.DOTALL):
        return True
    return _is_name(head[:4]) and at + 8 + struct.unpack("<I", head[4:8])[0] <= size


def _skip_chunks(file: Readable, end: int, size: int) -> int:
    """Where the next wav begins after the chunks that follow the sound at `end`; the end of the file if none does."""
    return next(find_all(file, START, end, size), size)
