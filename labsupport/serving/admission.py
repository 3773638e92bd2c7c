"""How many requests may be in the house at once, and when the others should come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labsupport.serving.problems import Problem

NEWEST = 0.2  # share of the last request in the mean time that one takes


class Admission:
    """A bounded number of requests, from the first byte of the upload to the last of the answer.

    most: of requests; active: of them are computed at once.
    """

    def __init__(self, most: int, active: int):
        self.most, self.active = most, active
        self.inside = 0
        self.seconds = 1.0  # that a request takes once it is computed, a running mean

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises Problem where the house is full."""
        if self.inside >= self.most:
            what = f"{self.inside} requests are in work, which is all that is taken at once."
            raise Problem(429, what, code="queue_full", retry_after=self.wait())
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def wait(self) -> float:
        """Seconds after which some of those inside have left: a quarter of all."""
        return min(60.0, max(1.0, self.seconds * self.inside / self.active / 4))

    def note(self, seconds: float) -> None:
        """A request was computed in so many."""
        self.seconds += NEWEST * (seconds - self.seconds)
