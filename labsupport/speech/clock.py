"""A container's clock: it says when each piece of sound is to be heard, which need not be right after the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

TOLERANCE = 0.2  # seconds: time stamps are rounded to milliseconds, and clocks drift
WORTH_TELLING = 0.45  # seconds: calls leave out silence, and send something each 0.4 s
RESTART = 600.0  # seconds: a longer step of a broadcast's clock is that of another recording, joined to the first
UNSTATED = 3600.0  # seconds of silence at most in a file that does not say how long it lasts
WITH_CLOCK = (  # of FFmpeg's names, those whose time stamps are stored; others are counted from the samples
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *["flv", "asf", "mpegts", "mpeg", "ogg", "flac"],
)
BROADCAST = ("mpegts", "mpeg")


class Clock:
    """Finds where silence belongs between the decoded frames of a container's track.

    A video's sound may begin late; a browser stores no sound while its microphone is muted; packets are lost on a
    network, or to damage. Closed up, what follows would come too early.
    """

    def __init__(self, container: av.container.InputContainer):
        import av

        name = container.format.name
        self.running, self.restarts = name in WITH_CLOCK, name in BROADCAST
        self.end = self.next = (container.start_time or 0) / av.time_base  # of the sound so far, and of the last frame
        self.left = container.duration / av.time_base if container.duration else UNSTATED
        self.gaps: list[tuple[float, float]] = []  # from, to: seconds of the sound, silence included
        self.jumps: list[float] = []
        self.position = 0.0  # seconds of the sound so far, silence included

    def find_gap(self, frame: av.AudioFrame) -> float:
        """How many seconds of silence belong before the next frame."""
        time = frame.time if self.running and frame.time is not None else self.end
        step, jump = time - self.end, time - self.next
        gap = step if TOLERANCE < step <= self.left and not (self.restarts and step > RESTART) else 0.0
        if gap:
            self.left -= gap
            self.gaps.append((self.position, self.position + gap))
        elif abs(step) > TOLERANCE < abs(jump):  # else it has drifted that far
            self.jumps.append(self.position)
        seconds = frame.samples / frame.sample_rate
        self.next = time + seconds
        self.end += seconds + (step if abs(step) > TOLERANCE else 0.0)
        self.position += seconds + gap
        return gap

    def warnings(self) -> list[str]:
        """What a user should know: where the file lacks sound in its midst, or its clock is wrong."""
        gaps = [(start, end) for start, end in self.gaps if start >= WORTH_TELLING and end - start >= WORTH_TELLING]
        found = []
        if gaps:
            start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
            places = "" if len(gaps) == 1 else f" and in {len(gaps) - 1} more places"
            found.append(f"it holds no sound from {start:.1f} to {end:.1f} s{places}, as after a pause or a loss.")
        if self.jumps:
            found.append(f"its time stamps are out of order at {self.jumps[0]:.1f} s; the sound is taken as it comes.")
        return found
