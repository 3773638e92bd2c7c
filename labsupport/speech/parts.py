"""A part of an audio file as a file of its own, and what the readers of all containers share."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from labsupport.base.errors import AudioError, printable

UNKNOWN_SIZES = (1 << 31, 1 << 32, 1 << 63, 1 << 64)  # a writer that streams leaves 0, or a number near one of these
SIZE_MARGIN = 4096
FFMPEG = ("ffmpeg",)
SOUNDFILE_FIRST = ("soundfile", "ffmpeg")
SOUNDFILE_LAST = ("ffmpeg", "soundfile")
PIECE = 1 << 20  # bytes that are searched at once

log = logging.getLogger(__name__)


class Readable(Protocol):
    """A binary file that can seek."""

    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def read(self, count: int = ..., /) -> bytes: ...


@dataclass
class Source:
    """What a file is called in messages, and what is wanted of it.

    track: of several audio tracks, from 1 on; None: the one that FFmpeg holds for the best.
    allow_damaged: take what is left of a file that is cut off or damaged.
    """

    where: object
    track: int | None = None
    allow_damaged: bool = False
    damaged: bool = False  # as far as is known yet
    offset: float = 0.0  # seconds of the recordings that were read before, for what is said of the one at work

    def report_damage(self, how: str, cause: BaseException | None = None) -> None:
        """AudioError; or a warning, at the first damage alone, where what is left of the file is wanted."""
        if not self.allow_damaged:
            raise self.damage_error(how, "Copy it again, or take what is left of it: `--allow-damaged`.") from cause
        if not self.damaged:
            self.warn(f"cut off or damaged: {how}. What is left is taken.")
        self.damaged = True

    def report_break(self, seconds: float, cause: BaseException | None = None) -> None:
        self.report_damage(f"decoding breaks off at {self.offset + seconds:.2f} s", cause)

    def report_missing(self, count: int) -> None:
        self.report_damage(f"{count} bytes of sound are missing at its end")

    def damage_error(self, how: str, hint: str = "Copy or download it again.") -> AudioError:
        return AudioError(f"The file is cut off or damaged: {how}.", where=self.where, hint=hint)

    def check_track(self, count: int) -> None:
        """AudioError unless a file with so many audio tracks has the one that is wanted."""
        if self.track is not None and not 1 <= self.track <= count:
            hint = f"It has {count}, counted from 1."
            raise AudioError(f"There is no audio track {self.track}.", where=self.where, hint=hint)

    def warn(self, text: str) -> None:
        """Writes to the log what a user should know of the file, though it can be read."""
        log.warning("%s: %s", printable(str(self.where)), text)


class Part(io.RawIOBase):
    """The bytes from `start` to `end` of a seekable file as a file of its own, with `patches` (offset: bytes) in place.

    `libraries` are those that read this kind, the better first. An OSError in reading stays in `fault`, and the file
    seems to end there: libsndfile's callbacks would print it and go on.
    """

    def __init__(self, file: Readable, start: int, end: int, libraries: tuple[str, ...] = FFMPEG):
        self.file, self.start, self.end = file, start, end
        self.libraries = libraries
        self.patches: dict[int, bytes] = {}
        self.fault: OSError | None = None
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.end - self.start}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:
        try:
            data = self._read(min(len(buffer), max(0, self.end - self.start - self._at)))
        except OSError as error:
            self.fault = error
            return 0
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        data = read_at(self.file, self.start + self._at, count)
        for offset, new in self.patches.items():
            at = offset - self._at
            if -len(new) < at < len(data):
                first, last = max(at, 0), min(at + len(new), len(data))
                data = data[:first] + new[first - at : last - at] + data[last:]
        return data


def measure(file: Readable) -> int:
    """The file's size in bytes."""
    return file.seek(0, os.SEEK_END)


def read_at(file: Readable, at: int, count: int) -> bytes:
    """Up to `count` bytes from offset `at` on; none from an offset that no file has, but a damaged size gives."""
    if at >= 1 << 62:
        return b""
    file.seek(at)
    return file.read(count)


def read_tag_size(data: bytes) -> int:
    """The bytes of the ID3v2 tag that `data` begins with, 0 if it begins with none."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))


def find_all(file: Readable, mark: bytes, start: int, end: int) -> Iterator[int]:
    """Where the pattern `mark`, of at most 64 bytes, begins between two offsets."""
    for at in range(start, end, PIECE):
        piece = read_at(file, at, min(PIECE + 63, end - at))
        for found in re.finditer(mark, piece, re.DOTALL):
            if found.start() < PIECE:
                yield at + found.start()


def is_unknown(size: int) -> bool:
    """Whether a stated size is what programs write that do not know how much will follow."""
    return size == 0 or any(-SIZE_MARGIN <= size - bound < SIZE_MARGIN for bound in UNKNOWN_SIZES)


def encrypted_error(source: Source) -> AudioError:
    hint = "Only its shop's or service's own player can open it; ask for a copy without protection, or record it."
    return AudioError("The sound is encrypted (DRM), so it cannot be decoded.", where=source.where, hint=hint)
