"""Follows FFmpeg through the packets of a file, and finds what it lacks of the duration or frames that it states."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from labsupport.speech.parts import Part, read_at, read_tag_size

if TYPE_CHECKING:
    import av

MP3_FRAMES_TOLERANCE = 2  # encoders differ in whether they count their first and last frame
DURATION_TOLERANCE = 0.5  # seconds; encoders pad the start and the end
BYTES_TOLERANCE = 3000  # of an mp3 that was cut out of another, or of a broadcast: the rest of a frame
TAG = rb"ID3[\x02-\x04]|TAG|APETAGEX"
FRAME_COUNT = re.compile(  # behind an mp3 frame's header and side information: Xing's or LAME's table, or Fraunhofer's
    rb"\xff[\xe2-\xff]..(.{9}|.{17}|.{32})"
    rb"((Xing|Info)\x00\x00\x00([\x01\x03\x05\x07\x09\x0b\x0d\x0f](?P<xing>....)|.)|VBRI\x00\x01.{8}(?P<vbri>....))",
    re.DOTALL,
)


class Progress:
    """Decodes the packets of a file and compares what they hold with the stated duration.

    from_zero: the stated duration counts from the clock's zero, not from the first frame.
    tolerance: seconds that may be missing.
    """

    def __init__(
        self,
        stream: av.AudioStream,
        stated: float | None,
        from_zero: bool = False,
        tolerance: float = DURATION_TOLERANCE,
    ):
        self.stream, self.stated, self.from_zero, self.tolerance = stream, stated, from_zero, tolerance
        self.start: float | None = None
        self.decoded = self.position = 0.0  # seconds: of sound, and of the last frame's end by its time stamp
        self.skipped = 0.0  # seconds before the first frame that can be decoded

    def decode(self, packet: av.Packet) -> list[av.AudioFrame]:
        frames = self._try(packet)
        for frame in frames:
            seconds = frame.samples / frame.sample_rate
            self.decoded += seconds
            if frame.time is not None:
                self.start = frame.time if self.start is None else self.start
                self.position = max(self.position, frame.time - self.start + seconds)
        return frames

    def _try(self, packet: av.Packet) -> list[av.AudioFrame]:
        """The packet's frames: none if it is a tag between two files, or comes before the first that can be decoded."""
        import av

        try:
            return self.stream.decode(packet)
        except (av.error.InvalidDataError, av.error.UndefinedError):  # the latter from AAC's parser
            if self.decoded and not re.match(TAG, bytes(packet)):
                raise
            self.skipped += float((packet.duration or 0) * (packet.time_base or 0)) * (not self.decoded)
            return []

    def warnings(self) -> list[str]:
        """What a user should know of the sound that was left out, though the file is not called damaged."""
        return [f"its first {self.skipped:.1f} s cannot be decoded."] if self.skipped > DURATION_TOLERANCE else []

    def find_missing(self) -> str:
        """What is missing at the end, in words; "" if nothing."""
        found = max(self.decoded, self.position + ((self.start or 0.0) if self.from_zero else 0.0))
        if self.stated is None or found + self.tolerance >= self.stated:
            return ""
        return f"it should hold {self.stated:.2f} s and holds {found:.2f} s"


class Mp3Progress(Progress):
    """Counts the frames of each mp3 that is joined in a part, and compares with what its Xing or VBRI header states.

    An mp3 has no container: decoders look for the next frame after what they cannot read.
    """

    def __init__(self, stream: av.AudioStream, part: Part):
        super().__init__(stream, None)
        self.stated_frames = [read_frame_count(_read_first_frame(part))]
        self.found_frames = [0]
        self.good_bytes = self.bad_bytes = self.tag_bytes = 0

    def _try(self, packet: av.Packet) -> list[av.AudioFrame]:
        import av

        content = bytes(packet)
        if FRAME_COUNT.search(content):  # behind the tag of the next file, which begins here
            self.stated_frames.append(read_frame_count(content))
            self.found_frames.append(0)
            return []
        try:
            frames = self.stream.decode(packet)
        except (av.error.InvalidDataError, av.error.UndefinedError):
            self.bad_bytes += packet.size
            self.tag_bytes += read_tag_size(content)
            return []
        self.good_bytes += packet.size
        self.found_frames[-1] += len(frames)
        return frames

    def warnings(self) -> list[str]:
        lost = self.bad_bytes - self.tag_bytes
        return [f"{lost} bytes of it cannot be decoded, and are left out."] if lost > BYTES_TOLERANCE else []

    def find_missing(self) -> str:
        if self.bad_bytes - self.tag_bytes > self.good_bytes:
            return f"only {self.good_bytes} of {self.good_bytes + self.bad_bytes} bytes can be decoded"
        for stated, found in zip(self.stated_frames, self.found_frames, strict=True):
            if stated is not None and found + MP3_FRAMES_TOLERANCE < stated:
                return f"it should hold {stated} frames and holds {found}"
        return ""


def _read_first_frame(part: Part) -> bytes:
    tag = read_at(part.file, part.start, 10)  # not through the part, whose place FFmpeg holds
    return read_at(part.file, part.start + read_tag_size(tag), 200)


def read_frame_count(frame: bytes) -> int | None:
    """The number of frames that the Xing, Info or VBRI header in an mp3's first frame states; None if it does not."""
    found = FRAME_COUNT.search(frame)
    if not found:
        return None
    count = found["xing"] or found["vbri"]
    return int.from_bytes(count, "big") if count else None
