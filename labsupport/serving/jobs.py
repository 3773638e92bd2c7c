"""A request's work on its way between the threads: what is asked for, what becomes of it, and whether anybody waits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from labsupport.serving.problems import explain, too_late
from labsupport.speech.text import Segment


@dataclass(frozen=True)
class Ask:
    """What a request wants to know of its sound.

    language: Whisper's code, None to detect it; task: "transcribe" or "translate"; prompt: text from before.
    temperature: 0 decodes by the likeliest tokens, and tries others where a text fails; above 0 it alone is tried.
    times: segments are given with their times, no longer than subtitles are; word_times: words, too.
    """

    language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    temperature: float = 0.0
    times: bool = False
    word_times: bool = False


@dataclass(frozen=True)
class Piece:
    """What was found next: text with its leading space, and segments, with theirs, where times are asked for.

    seek: where its window begins, in log-mel frames of the recording.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    seek: int = 0


@dataclass(frozen=True)
class Finished:
    """All is found. language: Whisper's code; duration: of the recording, in seconds; windows: that were decoded."""

    language: str
    duration: float
    windows: int


Event = Piece | Finished | Exception


@dataclass(eq=False)
class Job:
    """One request between its client and the model's thread.

    path: the upload.
    limit: seconds from now on that it may take.
    reason: why nobody waits for it any more.
    """

    ask: Ask
    path: Path
    limit: float
    began: float = field(default_factory=time.monotonic)
    reason: Exception | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    @property
    def left(self) -> float:
        """Seconds until its time is over."""
        return self.began + self.limit - time.monotonic()

    @property
    def wanted(self) -> bool:
        return self.reason is None and self.left > 0

    def end(self, reason: Exception) -> None:
        """Nobody waits for the job any more; the first reason counts."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raises the reason why nobody waits any more, if there is one; called by every thread."""
        if self.left <= 0:
            self.end(too_late(self.limit))
        if self.reason:
            raise self.reason

    def put(self, event: Event) -> None:
        """Gives the event to the client's coroutine, from any thread; its loop may have ended meanwhile."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def fail(self, error: Exception) -> None:
        self.put(self.reason or explain(error))
