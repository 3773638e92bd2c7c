"""What an audio file's bytes say of its container: the recordings that were joined in it, and whether each is complete.

Ogg streams are chained (internet radio), other files are joined byte for byte, and decoders stop at the end of the
first. `find_parts` cuts such a file into parts that decode by themselves; nothing is decoded here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labsupport.speech import ogg_pages, wav_chunks
from labsupport.speech.parts import (
    FFMPEG,
    PIECE,
    SOUNDFILE_FIRST,
    SOUNDFILE_LAST,
    Part,
    Readable,
    Source,
    encrypted_error,
    find_all,
    is_unknown,
    measure,
    read_at,
    read_tag_size,
)


def find_parts(file: Readable, source: Source) -> list[Part]:
    """The recordings that a seekable file holds, in order; most files are one part.

    AudioError if the container shows that bytes are missing or damaged, unless those that are left are wanted, or that
    the sound is encrypted.
    """
    size, tag = measure(file), read_tag_size(read_at(file, 0, 10))
    head = read_at(file, tag, 64)
    for mark, find in READERS.items():
        if re.match(mark, head, re.DOTALL):
            return find(Part(file, tag, size) if tag else file, size - tag, source)
    return [Part(file, 0, size, SOUNDFILE_LAST)]


def starts_like_media(file: Readable) -> bool:
    """Whether a file begins as audio or video does, though it may be unreadable further on."""
    mark = rb"RIFF....WAVE|fLaC|OggS|FLV|....ftyp|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75|#!AMR|caff|FORM....AIF|ID3"
    return re.match(mark, read_at(file, 0, 12), re.DOTALL) is not None


def name_codec(file: Readable) -> str:
    """What a file calls the coding of its sound, for a message: a wav's number, mp4's four letters, Matroska's name."""
    head = read_at(file, 0, PIECE)
    if re.match(wav_chunks.START, head, re.DOTALL):
        return f"format {wav_chunks.read_tag(file):#06x} of wav"
    found = re.search(rb"soun.*?stsd.{12}(?P<mp4>....)|\x86(?P<size>[\x83-\xbf])(?P<mkv>A_.{62})", head, re.DOTALL)
    if not found:
        return "something unknown"
    name = found["mp4"] or found["mkv"][: found["size"][0] & 0x7F]
    return repr(name.decode("latin-1"))


def _cut_at(file: Readable, starts: list[int], end: int, libraries: tuple[str, ...] = FFMPEG) -> list[Part]:
    starts = starts or [0]
    return [Part(file, a, b, libraries) for a, b in zip(starts, [*starts[1:], end], strict=True)]


# --- files of one recording, which are joined byte for byte: a mark begins each --------------------------------------

FLAC = rb"fLaC[\x00\x80]\x00\x00\x22"
AIFF = rb"FORM....AIF[FC]"
AU = rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1b]\x00.{3}\x00\x00\x00."
W64 = rb"riff\x2e\x91\xcf\x11"
CAF = rb"caff\x00\x01\x00\x00desc"
AMR = rb"#!AMR(-WB)?\n"
FLV = rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00"
TTA = rb"TTA1[\x01-\x03]\x00.\x00[\x08\x10\x18]\x00"


def _find_flacs(file: Readable, size: int, source: Source) -> list[Part]:
    starts = list(find_all(file, FLAC, 0, size))
    if not starts:
        source.report_damage("its header breaks off or is damaged")
        return [Part(file, 0, size)]
    parts = _cut_at(file, starts, size)
    for part, start in zip(parts, starts, strict=True):
        count = int.from_bytes(read_at(file, start + 21, 5), "big") & (1 << 36) - 1
        if count:  # else libsndfile loses the end
            part.libraries = SOUNDFILE_LAST if source.allow_damaged else SOUNDFILE_FIRST  # which ends at any damage
    return parts


def _find_by_soundfile(file: Readable, size: int, source: Source) -> list[Part]:
    return _cut_at(file, list(find_all(file, rb"%b|%b|%b" % (AIFF, AU, W64), 0, size)), size, SOUNDFILE_FIRST)


def _find_by_ffmpeg(file: Readable, size: int, source: Source) -> list[Part]:
    return _cut_at(file, list(find_all(file, rb"%b|%b" % (AMR, TTA), 0, size)), size)


def _find_flvs(file: Readable, size: int, source: Source) -> list[Part]:
    """Flash videos (Adobe Flash Video File Format 10.1, annex E): behind each block stands its length."""
    parts = _cut_at(file, list(find_all(file, FLV, 0, size)), size)
    for part in parts:
        length = int.from_bytes(read_at(file, part.end - 4, 4), "big")
        head = read_at(file, max(part.start, part.end - 4 - length), 4)
        if 11 + int.from_bytes(head[1:], "big") != length:
            source.report_damage("its last block breaks off")
    return parts


def _find_cafs(file: Readable, size: int, source: Source) -> list[Part]:
    """Core Audio files (Apple Core Audio Format Specification 1.0)."""
    parts = _cut_at(file, list(find_all(file, CAF, 0, size)), size, SOUNDFILE_FIRST)
    for part in parts:
        at = part.start + 8
        while len(head := read_at(file, at, 12)) == 12 and at < part.end:
            name, length = struct.unpack(">4sq", head)
            at = part.end if length < 0 else at + 12 + length  # -1: to the end of the file
            if name == b"data" and at > part.end:
                source.report_missing(at - part.end)
    return parts


def _find_avis(file: Readable, size: int, source: Source) -> list[Part]:
    """One AVI: a list of RIFF chunks of at most 1 GB."""
    at = 0
    while re.match(rb"RIFF....AVI[ X]", head := read_at(file, at, 12), re.DOTALL):
        length = int.from_bytes(head[4:8], "little")
        if is_unknown(length):
            break
        at += 8 + length + length % 2
    if at > size + 1:
        source.report_missing(at - size)
    return [Part(file, 0, size)]


# --- mp4, mov, m4a, 3gp: boxes (ISO/IEC 14496-12) --------------------------------------------------------------------

MP4_ENCRYPTED = rb"stsd.{12}(enca|drms|aavd)"  # the first entry of a track's sample description; aavd is Audible's


def _find_mp4s(file: Readable, size: int, source: Source) -> list[Part]:
    starts, seen, end, missing = [0], set[bytes](), 0, 0
    for name, start, end in _read_boxes(file, size):
        if name == b"moov" and any(find_all(file, MP4_ENCRYPTED, start, min(end, size))):
            raise encrypted_error(source)
        if name == b"ftyp" and b"moov" in seen:
            starts.append(start)
            seen.clear()
        if name != b"moov" or end <= size:
            seen.add(name)
        if end > size and name in (b"mdat", b"moov", b"moof"):
            missing = end - size
    if b"moov" not in seen:
        hint = "Copy it again. Programs such as untrunc make an index by the model of a recording of the same device."
        raise source.damage_error("it has no index (moov), as where a recording was interrupted", hint)
    if missing:
        source.report_missing(missing)
    if b"moof" in seen and end < size:
        source.report_damage("its fragments break off before its end")
    return _cut_at(file, starts, size)


def _read_boxes(file: Readable, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each outermost box, as far as they follow each other."""
    at = 0
    while re.fullmatch(rb"....[ -~\xa9]{4}", head := read_at(file, at, 8), re.DOTALL):
        length, name = struct.unpack(">I4s", head)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        end = size if length == 0 else at + length
        yield name, at, end
        if end < at + 8:
            return
        at = end


# --- webm, mkv: elements (RFC 8794, RFC 9559) ------------------------------------------------------------------------

EBML, SEGMENT, CLUSTER, TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
ENCRYPTION = 0x5035
NONE = 0  # where there is no element
ENTERED = {SEGMENT, TRACKS, 0xAE, 0x6D80, 0x6240}  # the way to a track's encryption


@dataclass(frozen=True)
class Element:
    id: int
    start: int
    content: int
    end: int | None  # where it is stated


def _find_matroskas(file: Readable, size: int, source: Source) -> list[Part]:
    starts, streamed = [], False
    for element in _read_elements(file, size):
        if element.id == EBML:
            starts.append(element.start)
        if element.id == SEGMENT:
            streamed = element.end is None
        if element.id == NONE and streamed:
            source.report_damage("its last block breaks off")
        if element.id == ENCRYPTION:
            raise encrypted_error(source)
        if element.id != NONE and element.end is not None and element.end > size:
            source.report_missing(element.end - size)
    return _cut_at(file, starts, size)


def _read_elements(file: Readable, size: int) -> Iterator[Element]:
    """The outermost elements, and those inside of what has no stated end or may hold an encryption."""
    at = 0
    while at < size:
        yield (element := _read_element(file, at))
        inside = element.id in ENTERED or element.end is None
        at = element.content if inside else element.end or size


def _read_element(file: Readable, at: int) -> Element:
    head = read_at(file, at, 12)
    id_size = 9 - head[0].bit_length() if head[0] else 0
    if not 1 <= id_size <= 4 or len(head) <= id_size or not head[id_size]:
        return Element(NONE, at, at, 1 << 62)
    width = 9 - head[id_size].bit_length()
    content = id_size + width
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(head[id_size:content], "big") & mask
    end = None if length == mask else at + content + length
    return Element(int.from_bytes(head[:id_size], "big"), at, at + content, end)


# --- wma: objects (Advanced Systems Format, revision 01.20.05) -------------------------------------------------------

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
ASF_ENCRYPTION = (  # content encryption, extended content encryption, advanced content encryption
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)


def _find_wmas(file: Readable, size: int, source: Source) -> list[Part]:
    starts = []
    at = 0
    while len(head := read_at(file, at, 24)) == 24:
        name, (length,) = head[:16], struct.unpack("<Q", head[16:])
        if name == ASF_HEADER:
            starts.append(at)
            if any(mark in read_at(file, at, min(length, 1 << 20)) for mark in ASF_ENCRYPTION):
                raise encrypted_error(source)
        if name in (ASF_HEADER, ASF_DATA) and at + length > size and not is_unknown(length):
            source.report_missing(at + length - size)
        if length < 24:
            break
        at += length
    return _cut_at(file, starts, size)


# ---------------------------------------------------------------------------------------------------------------------


def _refuse_audible(file: Readable, size: int, source: Source) -> list[Part]:
    raise encrypted_error(source)


READERS: dict[bytes, Callable[[Readable, int, Source], list[Part]]] = {  # how a file begins: what finds its parts
    rb"fLaC": _find_flacs,
    wav_chunks.START: wav_chunks.find_wavs,
    rb"OggS": ogg_pages.find_links,
    rb"RIFF....AVI ": _find_avis,
    rb"....(ftyp|moov|mdat|wide|free|skip|pnot)": _find_mp4s,
    rb"\x1a\x45\xdf\xa3": _find_matroskas,
    re.escape(ASF_HEADER): _find_wmas,
    CAF: _find_cafs,
    rb"....\x57\x90\x75\x36": _refuse_audible,
    rb"%b|%b|%b" % (AIFF, AU, W64): _find_by_soundfile,
    rb"%b|%b" % (AMR, TTA): _find_by_ffmpeg,
    FLV: _find_flvs,
}
