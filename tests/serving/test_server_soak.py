"""Ten minutes of load on the process: its memory does not grow, and in the end nothing of a request is left."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from served import HTTP, LONGEST, Served, serve, wav, write_small_model

SECONDS, WARM_UP = 600, 120
CLIENTS = 8
MOST = 1.05  # times as much memory at the end as after the warm-up


def ask_until(end: float, url: str, sounds: list[bytes], seed: int) -> list[int]:
    """Sends good and bad sounds, and leaves some requests early (0), until the time is over; the statuses."""
    chance, statuses = random.Random(seed), []
    while time.monotonic() < end:
        sound, form = chance.choice(sounds), chance.choice(["json", "srt", "verbose_json"])
        data = {"model": "small", "response_format": form, "stream": str(form == "json").lower()}
        patience = httpx.Timeout(LONGEST, read=chance.choice([0.05, LONGEST, LONGEST, LONGEST]))
        try:
            files = {"file": ("a.wav", sound)}
            answer = HTTP.post(f"{url}/v1/audio/transcriptions", data=data, files=files, timeout=patience)
            statuses.append(answer.status_code)
        except httpx.ReadTimeout:
            statuses.append(0)
    return statuses


def watch_memory(served: Served, end: float, found: list[int]) -> None:
    """Notes the process's resident bytes, ten times a second."""
    process = psutil.Process(served.process.pid)
    while time.monotonic() < end:
        found.append(process.memory_info().rss)
        time.sleep(0.1)


def growth(samples: list[int]) -> float:
    """The median of the last tenth over that of the first."""
    tenth = len(samples) // 10
    return statistics.median(samples[-tenth:]) / statistics.median(samples[:tenth])


@pytest.mark.weights
@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 2 * LONGEST)
def test_memory_does_not_grow_under_load(tmp_path):
    model = write_small_model(tmp_path / "models" / "small")
    sounds = [wav(1), wav(5, form="FLAC"), wav(40), wav(70), b"no sound", wav(2)[:200], b""]
    with (
        serve(tmp_path / "served", "--queue", "4", "--batch", "4", model=str(model)) as served,
        ThreadPoolExecutor() as pool,
    ):
        url, began, memory = served.url, time.monotonic(), []
        asked = [pool.submit(ask_until, began + SECONDS, url, sounds, seed) for seed in range(CLIENTS)]
        time.sleep(WARM_UP)
        watcher = threading.Thread(target=watch_memory, args=(served, began + SECONDS, memory))
        watcher.start()
        statuses = list(itertools.chain.from_iterable(each.result() for each in asked))
        watcher.join()
        wait_until_empty(served, url)
        assert served.stop() == 0
    assert {200, 415, 0} <= set(statuses) <= {0, 200, 415, 422, 429}
    assert len(statuses) > SECONDS
    assert growth(memory) < MOST
    assert served.uploads() == []


def wait_until_empty(served: Served, url: str) -> None:
    limit = time.monotonic() + LONGEST
    while "lab_requests_inside 0.0" not in HTTP.get(f"{url}/metrics").text:
        assert time.monotonic() < limit, "a request stays inside"
        time.sleep(0.1)


def test_growth_is_found():
    steady = [100 + number % 7 for number in range(1000)]
    assert growth(steady) < MOST
    assert growth([value + number // 50 for number, value in enumerate(steady)]) > MOST
