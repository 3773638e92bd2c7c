"""A container's clock: it says when each piece of sound is to be heard, which need not be right after the last one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

TOLERANCE = 0.2  # seconds: time stamps are rounded to milliseconds, and clocks drift
EXACT = 0.001  # seconds: where stamps are counted in samples
AHEAD = 10.0  # seconds of sound: a stamp that is wrong, or late by a stall of the network, is set right within them
WORTH_TELLING = 0.45  # seconds: calls leave out silence, and send something each 0.4 s
BEHIND = 1.0  # seconds
RESTART = 600.0  # seconds: a longer step of a broadcast's clock is that of another recording, joined to the first
MOST_SILENCE = 3600.0  # seconds in all, or as long as the file says that it lasts
MOST_VALUES = 1 << 21  # of all channels, that are held to look ahead
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's names, as those below
MATROSKA = "matroska,webm"
BROADCAST = ("mpegts", "mpeg")
WITH_CLOCK = (MP4, MATROSKA, *BROADCAST, "flv", "asf", "ogg", "flac")  # others' stamps are counted from the samples


class Clock:
    """Finds where silence belongs between the decoded frames of a container's track.

    A video's sound may begin late; a browser stores no sound while its microphone is muted; packets are lost on a
    network, or to damage. Closed up, what follows would come too early.
    """

    def __init__(self, container: av.container.InputContainer):
        import av

        name = container.format.name
        self.running, self.restarts = name in WITH_CLOCK, name in BROADCAST
        counted = name == "flac"  # in samples, from 0 on
        self.tolerance = EXACT if counted else TOLERANCE
        start = 0 if counted else container.start_time or 0
        self.lead = start / av.time_base  # of the clock over the sound, silence left out
        self.left = max((container.duration or 0) / av.time_base, MOST_SILENCE)
        self.position = 0.0  # seconds of the sound so far, silence included
        self.gaps: list[tuple[float, float]] = []  # from, to
        self.left_out: list[tuple[float, float]] = []  # where, seconds
        self.behind = 0.0  # seconds by which there is more sound than the clock has room for

    def place(self, frames: Iterable[av.AudioFrame]) -> Iterator[tuple[float, av.AudioFrame]]:
        """Each frame, and how many seconds of silence belong before it."""
        if not self.running:
            yield from ((0.0, frame) for frame in frames)
            return
        blocks = gather(find_leads(frames, self.lead))
        block = next(blocks, [])
        while block:
            following = next(blocks, [])
            leads = np.array([lead for lead, _ in [*block, *following]])[::-1]
            lowest, highest = np.minimum.accumulate(leads)[::-1], np.maximum.accumulate(leads)[::-1]  # from a frame on
            for (_, frame), low, high in zip(block, lowest.tolist(), highest.tolist(), strict=False):
                silence = self.find_silence(low, high)
                yield silence, frame
                self.position += silence + frame.samples / frame.sample_rate
            block = following

    def find_silence(self, lowest: float, highest: float) -> float:
        """Seconds of it, where the clock is further ahead from here on; a clock that falls behind is followed.

        lowest, highest: the clock's lead in what follows. One stamp that is wrong is neither.
        """
        gap, lag = lowest - self.lead, self.lead - highest
        if gap > self.tolerance:
            self.lead = lowest
            return self._fill(gap)
        if lag > self.tolerance:
            self.lead = highest
            self.behind += lag
        return 0.0

    def _fill(self, gap: float) -> float:
        if gap > self.left or (self.restarts and gap > RESTART):
            self.left_out.append((self.position, gap))
            return 0.0
        self.left -= gap
        self.gaps.append((self.position, self.position + gap))
        return gap

    def warnings(self, offset: float = 0.0) -> list[str]:
        """What a user should know: where the file lacks sound in its midst, and where its clock is not followed.

        offset: seconds of the recordings before this one in the file.
        """
        told = [(start, end) for start, end in self.gaps if min(start, end - start) >= WORTH_TELLING]
        found = []
        if told:
            start, end = max(told, key=lambda gap: gap[1] - gap[0])
            places = f", the longest of {len(told)} such gaps" if len(told) > 1 else ""
            where = f"from {start + offset:.1f} to {end + offset:.1f} s{places}"
            found.append(f"it holds no sound {where}, as after a pause or a loss.")
        for at, seconds in self.left_out[:1]:
            found.append(f"its clock goes on by {seconds:.0f} s at {at + offset:.1f} s; this gap is left out.")
        if self.behind >= BEHIND:
            found.append(f"its clock falls behind its sound, by {self.behind:.1f} s in all; times may be late.")
        return found


def find_leads(frames: Iterable[av.AudioFrame], lead: float) -> Iterator[tuple[float, av.AudioFrame]]:
    """By how many seconds the clock is ahead of the sound before each frame; `lead` until a frame has a time."""
    sound = 0.0
    for frame in frames:
        lead = lead if frame.time is None else frame.time - sound
        yield lead, frame
        sound += frame.samples / frame.sample_rate


def gather(frames: Iterable[tuple[float, av.AudioFrame]]) -> Iterator[list[tuple[float, av.AudioFrame]]]:
    """Blocks of AHEAD seconds of sound, or less where there are many channels."""
    block: list[tuple[float, av.AudioFrame]] = []
    seconds, values = 0.0, 0
    for lead, frame in frames:
        block.append((lead, frame))
        seconds += frame.samples / frame.sample_rate
        values += frame.samples * frame.layout.nb_channels
        if seconds >= AHEAD or values >= MOST_VALUES:
            yield block
            block, seconds, values = [], 0.0, 0
    if block:
        yield block
