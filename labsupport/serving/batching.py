"""Which windows the model is given next: of as many requests as possible, and alike in what a batch must share."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from labsupport.speech.segments import Span


@dataclass(eq=False)
class Lane:
    """A request's windows that are still to be decoded, numbered; only lanes of one key share a batch."""

    key: Hashable
    windows: deque[tuple[int, Span]] = field(default_factory=deque)


def take_batch(lanes: deque[Lane], most: int) -> list[tuple[Lane, int, Span]]:
    """Takes at most so many windows out of the lanes: one of each in turn, then a second of each, and so on.

    They are those of the key of the first lane that has any. Lanes that were served go to the end, so that the next
    batch begins with others.
    """
    first = next((lane for lane in lanes if lane.windows), None)
    if first is None:
        return []
    alike = [lane for lane in lanes if lane.key == first.key and lane.windows]
    batch: list[tuple[Lane, int, Span]] = []
    while len(batch) < most and any(lane.windows for lane in alike):
        for lane in alike[: most - len(batch)]:
            if lane.windows:
                batch.append((lane, *lane.windows.popleft()))
        alike = [lane for lane in alike if lane.windows]
    move_to_end(lanes, {id(lane) for lane, _, _ in batch})
    return batch


def move_to_end(lanes: deque[Lane], served: Iterable[int]) -> None:
    found = set(served)
    behind = [lane for lane in lanes if id(lane) in found]
    before = [lane for lane in lanes if id(lane) not in found]
    lanes.clear()
    lanes.extend([*before, *behind])
