"""The pages of an Ogg file: its chained streams one by one, each page checked by its number and its checksum.

The format: RFC 3533. libogg drops a damaged page without an error, and libsndfile reads the first stream only.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field

from labsupport.speech.parts import FFMPEG, SOUNDFILE_FIRST, Part, Readable, Source, find_all, read_at

HEADER = struct.Struct("<4sBBqIIIB")  # mark, version, flags, granule position, serial, number, checksum, segments
FIRST, LAST = 2, 4  # flags
FIRST_PAGE = rb"OggS\x00\x02"
SOUNDFILE_CODECS = rb"\x01vorbis|OpusHead|\x7fFLAC"
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits in reverse


@dataclass(frozen=True)
class Page:
    start: int
    end: int
    flags: int
    granule: int
    serial: int
    number: int
    mark: bytes  # how its content begins


@dataclass
class Link:
    """The streams that lie side by side until the next group begins; `numbers` holds the last page number of each."""

    start: int
    codecs: list[bytes] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    with_sound: set[int] = field(default_factory=set)


def find_links(file: Readable, size: int, source: Source) -> list[Part]:
    """The streams that are chained in a file of `size` bytes; damage is reported where a page is damaged or missing."""
    links: list[Link] = []
    at = 0
    while at < size:
        page = _read_page(file, at)
        if page:
            _add_page(links, page, source)
            at = page.end
        elif links and not links[-1].open and read_at(file, at, 4) != b"OggS":  # a music program's tag, or padding
            at = next(find_all(file, FIRST_PAGE, at, size), size)
        else:
            source.report_damage(f"the page at byte {at} is damaged or incomplete")
            at = next(find_all(file, b"OggS", at + 1, size), size)
    if not links:
        return [Part(file, 0, size)]
    if links[-1].open:
        source.report_damage("its last page does not carry the end mark")
    ends = [link.start for link in links[1:]] + [size]
    return [Part(file, link.start, end, _choose_libraries(link, source)) for link, end in zip(links, ends, strict=True)]


def _choose_libraries(link: Link, source: Source) -> tuple[str, ...]:
    """libsndfile reads one whole stream alone, with the end mark, which radio stations leave out."""
    alone = len(link.codecs) == 1 and not link.open and not source.allow_damaged
    return SOUNDFILE_FIRST if alone and re.match(SOUNDFILE_CODECS, link.codecs[0]) else FFMPEG


def _add_page(links: list[Link], page: Page, source: Source) -> None:
    if page.flags & FIRST and (not links or set(links[-1].numbers.values()) != {0}):
        links.append(Link(page.start))
    if not links:
        source.report_damage("it does not begin with the first page of a stream")
        links.append(Link(page.start))
    link = links[-1]
    if page.flags & FIRST:
        link.codecs.append(page.mark)
        link.open.add(page.serial)
    elif page.number != link.numbers.get(page.serial, -1) + 1 and page.serial in link.with_sound:
        source.report_damage(f"pages are missing before byte {page.start}")
    link.numbers[page.serial] = page.number
    if page.granule > 0:  # a recording of a running stream has its headers, then a gap
        link.with_sound.add(page.serial)
    if page.flags & LAST:
        link.open.discard(page.serial)


def _read_page(file: Readable, at: int) -> Page | None:
    """The page at an offset; None if there is none, or it is damaged."""
    head = read_at(file, at, HEADER.size)
    if len(head) < HEADER.size or head[:4] != b"OggS":
        return None
    _, _, flags, granule, serial, number, checksum, segments = HEADER.unpack(head)
    table = file.read(segments)
    content = file.read(sum(table))
    if len(content) < sum(table) or _checksum(head[:22] + bytes(4) + head[26:] + table + content) != checksum:
        return None
    return Page(at, at + len(head) + len(table) + len(content), flags, granule, serial, number, content[:16])


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32 from zlib's, whose polynomial is the same, but which goes through the bits in reverse."""
    mirrored = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(MIRRORED), "big")
