"""Solutions of 12_serving. They spoil the fun: try first."""

from __future__ import annotations

import functools
import io
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 12.1 -------------------------------------------------------------------------------------------------------------


def choose_windows(queues, most):
    turns = [(turn, queue) for queue, windows in enumerate(queues) for turn, _ in enumerate(windows)]
    return [(queue, queues[queue][turn]) for turn, queue in sorted(turns)[:most]]


def choose_by_rounds(queues, most):
    chosen = []
    for turn in range(max(map(len, queues), default=0)):
        chosen += [(queue, windows[turn]) for queue, windows in enumerate(queues) if turn < len(windows)]
    return chosen[:most]


def choose_by_popping(queues, most):
    left, chosen = [deque(windows) for windows in queues], []
    while len(chosen) < most and any(left):
        for queue, windows in enumerate(left):
            if windows and len(chosen) < most:
                chosen.append((queue, windows.popleft()))
    return chosen


def choose_with_iterators(queues, most):
    waiting, chosen = deque((queue, iter(windows)) for queue, windows in enumerate(queues)), []
    while waiting and len(chosen) < most:
        queue, windows = waiting.popleft()
        for window in windows:
            chosen.append((queue, window))
            waiting.append((queue, windows))
            break
    return chosen


def choose_in_order(queues, most):
    return [(queue, window) for queue, windows in enumerate(queues) for window in windows][:most]


def choose_once(queues, most):
    return [(queue, windows[0]) for queue, windows in enumerate(queues) if windows][:most]


def choose_and_take_out(queues, most):
    chosen = choose_windows(queues, most)
    for queue, window in chosen:
        queues[queue].remove(window)
    return chosen


def draw_queues(rng):
    lengths = rng.integers(0, 5, rng.integers(1, 5))
    numbers = iter(range(10, 10 + int(lengths.sum())))
    return [[next(numbers) for _ in range(length)] for length in lengths], int(rng.integers(1, 10))


MOST = 4  # windows of a batch in the trial


@functools.cache
def uploads():
    """Two recordings as files, of one window and of two, and the text of each."""
    import soundfile

    from labsupport.course import trials
    from labsupport.speech import audio

    found = []
    for samples in (audio.read(audio.clip("jfk").path), audio.read(audio.clip("narration").path)[: 16_000 * 45]):
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
        read = audio.read(io.BytesIO(file.getvalue()))
        found.append(
            (file.getvalue(), trials.load_plain().transcribe(read, timestamps=False, batch=MOST, vad=True).text)
        )
    return found


def run_with_choice(answer):
    """The running service, whose batches are the answer's."""
    import httpx

    from labsupport.course import trials
    from labsupport.serving.server import running
    from labsupport.serving.settings import Settings

    batches = LearnersBatches(answer)

    def ask(content):
        fields, files = {"model": "whisper-1"}, {"file": ("a.wav", content)}
        return httpx.post(f"{url}/v1/audio/transcriptions", data=fields, files=files, timeout=240).json()

    settings = Settings(batch=MOST)
    patched = mock.patch("labsupport.serving.scheduler.take_batch", batches)
    with patched, running(trials.load_plain, settings) as url, ThreadPoolExecutor() as pool:
        answers = list(pool.map(ask, [content for content, _ in uploads()]))
    if batches.fault:
        raise Wrong(batches.fault)
    if not batches.calls:
        raise Wrong("your function was never called.")
    if any(found.get("text") != text for found, (_, text) in zip(answers, uploads(), strict=True)):
        raise Wrong("the service answers with another text.")
    return f"The service answered {len(answers)} requests in {batches.calls} batches of yours, with the same texts."


class LearnersBatches:
    """Stands in for the service's `take_batch`; a fault is noted, and the batch is then the service's own."""

    def __init__(self, answer):
        self.answer, self.calls, self.fault = answer, 0, ""

    def __call__(self, lanes, most):
        from labsupport.serving.batching import take_batch

        alike = [lane for lane in lanes if lane.windows and lane.key == lanes[0].key]
        try:
            chosen = self.answer([[number for number, _ in lane.windows] for lane in alike], most)
            taken = [(alike[queue], *self.take_out(alike[queue], number)) for queue, number in chosen]
        except Exception as error:  # noqa: BLE001 - the model's thread must live, whatever the answer does
            self.fault = f"inside the service, your function gives no batch: {type(error).__name__}: {error}"
            taken = []
        self.calls += bool(taken)
        return taken or take_batch(lanes, most)

    @staticmethod
    def take_out(lane, number):
        window = next(each for each in lane.windows if each[0] == number)
        lane.windows.remove(window)
        return window


# --- 12.2 -------------------------------------------------------------------------------------------------------------


def admit(arrivals, seconds, places):
    ends = []
    for arrival in arrivals:
        inside = [end for end in ends if end is not None and end > arrival]
        ends.append(max([arrival, *inside]) + seconds if len(inside) < places else None)
    return ends


def admit_with_a_queue(arrivals, seconds, places):
    inside, ends = deque(), []
    for arrival in arrivals:
        while inside and inside[0] <= arrival:
            inside.popleft()
        if len(inside) >= places:
            ends.append(None)
            continue
        inside.append((inside[-1] if inside else arrival) + seconds)
        ends.append(inside[-1])
    return ends


def admit_by_counting(arrivals, seconds, places):
    ends, last = [], 0
    for arrival in arrivals:
        inside = sum(1 for end in ends if end is not None and end > arrival)
        if inside >= places:
            ends.append(None)
        else:
            last = max(last, arrival) + seconds
            ends.append(last)
    return ends


def admit_by_the_wait(arrivals, seconds, places):
    free, ends = 0, []
    for arrival in arrivals:
        waiting = max(free - arrival, 0)
        if math.ceil(waiting / seconds) >= places:
            ends.append(None)
        else:
            free = arrival + waiting + seconds
            ends.append(free)
    return ends


def admit_everybody(arrivals, seconds, places):
    return admit(arrivals, seconds, len(arrivals) + 1)


def admit_at_once(arrivals, seconds, places):
    ends = admit(arrivals, seconds, places)
    return [None if end is None else arrival + seconds for arrival, end in zip(arrivals, ends, strict=True)]


def admit_without_leaving(arrivals, seconds, places):
    ends = admit_everybody(arrivals, seconds, places)
    return [end if number < places else None for number, end in enumerate(ends)]


def admit_with_refused_inside(arrivals, seconds, places):
    ends = admit_everybody(arrivals, seconds, places)
    waits = [sum(end > arrival for end in ends[:number]) for number, arrival in enumerate(arrivals)]
    return [end if wait < places else None for end, wait in zip(ends, waits, strict=True)]


def admit_one_more(arrivals, seconds, places):
    return admit(arrivals, seconds, places + 1)


def admit_late(arrivals, seconds, places):
    ends = []
    for arrival in arrivals:
        inside = [end for end in ends if end is not None and end >= arrival]
        ends.append(max([arrival, *inside]) + seconds if len(inside) < places else None)
    return ends


def draw_arrivals(rng):
    arrivals = np.cumsum(rng.integers(0, 4, rng.integers(6, 16)))
    return [int(each) for each in arrivals], int(rng.integers(2, 6)), int(rng.integers(1, 5))


# --- 12.3 -------------------------------------------------------------------------------------------------------------


def percentile(seconds, percent):
    return sorted(seconds)[math.ceil(percent * len(seconds) / 100) - 1]


def percentile_by_counting(seconds, percent):
    for value in sorted(seconds):
        if 100 * sum(each <= value for each in seconds) >= percent * len(seconds):
            return value
    return None


def percentile_with_numpy(seconds, percent):
    return float(np.percentile(seconds, percent, method="inverted_cdf"))


def percentile_from_the_top(seconds, percent):
    slower = (100 - percent) * len(seconds) // 100
    return sorted(seconds, reverse=True)[slower]


def draw_latencies(rng):
    seconds = [float(each) for each in rng.integers(1, 400, rng.integers(3, 60)) / 8]
    return seconds, int(rng.integers(1, 101))


EXERCISES = [
    Exercise(
        id="12.1",
        title="The next batch, in the service",
        hints=(
            "A long recording must not hold up a short one: whose turn is it after the first window of a queue?",
            "First the first window of every queue, then the second of every queue, until the batch is full.",
            "List (turn, queue) for all windows, sort, cut after `most`: that is the order.",
        ),
        solution=choose_windows,
        variants=[choose_by_rounds, choose_by_popping, choose_with_iterators],
        draw=draw_queues,
        edges=[([[1, 2, 3], [4], [5, 6]], 4), ([[], [1, 2]], 3), ([[1], [2]], 1), ([[], []], 2)],
        trial=run_with_choice,
        mistakes=[
            Mistake(choose_in_order, "The first recording takes the whole batch; the others wait until it is done."),
            Mistake(choose_once, "Where there is room left, a queue gives its second window, too."),
            Mistake(
                lambda queues, most: choose_windows(queues, math.inf if not queues else sum(map(len, queues))),
                "A batch has at most `most` windows: its memory is bounded.",
            ),
            Mistake(
                lambda queues, most: choose_windows([windows[::-1] for windows in queues], most),
                "Windows are spoken one after the other: take them from the front.",
            ),
            Mistake(
                lambda queues, most: [window for _, window in choose_windows(queues, most)],
                "Say whose window it is: pairs of the queue's number and the window.",
            ),
            Mistake(
                lambda queues, most: choose_windows([windows for windows in queues if windows], most),
                "Queues keep their numbers, also where one is empty.",
            ),
            Mistake(choose_and_take_out, "Only say which; the service takes them out itself."),
        ],
    ),
    Exercise(
        id="12.2",
        title="Who is told to come back",
        hints=(
            "When somebody comes, who is still inside? All whose end lies after that moment.",
            "If fewer than `places` are inside, the new one begins when the last of them ends, or at once.",
            "Walk through the arrivals with a list of ends; None for whoever was refused, who takes no time at all.",
        ),
        solution=admit,
        variants=[admit_with_a_queue, admit_by_counting, admit_by_the_wait],
        draw=draw_arrivals,
        edges=[([0, 0, 0], 2, 2), ([0, 2, 4], 2, 1), ([0, 1, 2, 3, 4, 9], 3, 2)],
        mistakes=[
            Mistake(admit_everybody, "Nobody is refused: the waits then grow as long as more come than leave."),
            Mistake(admit_at_once, "There is one worker: a request begins when those before it have ended."),
            Mistake(admit_without_leaving, "Whoever is answered leaves, and the place is free again."),
            Mistake(admit_with_refused_inside, "Whoever was refused takes no place and no time."),
            Mistake(admit_one_more, "The one in work is inside, too: it counts as one of the places."),
            Mistake(admit_late, "Whoever ends at the very moment in which another comes has left."),
        ],
    ),
    Exercise(
        id="12.3",
        title="A percentile",
        hints=(
            "Of a hundred sorted latencies, which one is the 95th percentile? And of twenty?",
            "It is the smallest of the values that at least `percent` of a hundred do not exceed.",
            "Sort; the place, counted from one, is percent times the count over a hundred, rounded up.",
        ),
        solution=percentile,
        variants=[percentile_by_counting, percentile_with_numpy, percentile_from_the_top],
        draw=draw_latencies,
        edges=[
            ([3.0, 1.0, 2.0], 50),
            ([1.0, 2.0], 50),
            ([5.0, 4.0], 100),
            ([1.0] * 19 + [9.0], 95),
            ([float(each) for each in range(1, 121)], 95),
        ],
        mistakes=[
            Mistake(
                lambda seconds, percent: seconds[math.ceil(percent * len(seconds) / 100) - 1], "Sort the values first."
            ),
            Mistake(
                lambda seconds, percent: float(np.percentile(seconds, percent)),
                "NumPy's default draws a line between two values: nobody waited that long. Take one that was measured.",
            ),
            Mistake(
                lambda seconds, percent: sorted(seconds)[min(percent * len(seconds) // 100, len(seconds) - 1)],
                "One place too far where the share comes out even, for places are counted from zero.",
            ),
            Mistake(
                lambda seconds, percent: sorted(seconds)[max(percent * len(seconds) // 100 - 1, 0)],
                "Rounded down, fewer than that share are as quick: round up.",
            ),
            Mistake(
                lambda seconds, percent: percentile(seconds, 101 - percent),
                "That is the share from the other end: p95 is among the slowest.",
            ),
            Mistake(lambda seconds, percent: max(seconds), "The slowest of all is p100."),
        ],
    ),
]
