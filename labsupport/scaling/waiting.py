"""How long a file waits for a free worker: simulated arrivals, and the formulas that hold the simulation to account.

Files arrive one by one at random (a Poisson process) and are served in the order of their arrival by workers that are
all alike. Times are in one unit throughout, seconds for example.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import numpy as np

from labsupport.base.errors import ScalingError

MOST_WORKERS = 10_000
WARM_UP = 0.1  # of the files: the first ones find an empty queue


def simulate_waits(arrivals: np.ndarray, services: np.ndarray, workers: int) -> np.ndarray:
    """How long each file waits before a worker begins it, float64 (files,).

    Args:
        arrivals: (files,) when each comes, rising.
        services: (files,) how long each takes.
    """
    free = [0.0] * workers  # when each worker is free again; a heap
    waits = np.empty(len(arrivals))
    for i, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        begin = max(arrival, free[0])
        heapq.heapreplace(free, begin + service)
        waits[i] = begin - arrival
    return waits


def draw_arrivals(rate: float, files: int, rng: np.random.Generator) -> np.ndarray:
    """When files of a Poisson process come, `rate` of them in a unit of time: float64 (files,), rising."""
    return np.cumsum(rng.exponential(1 / rate, files))


def wait_quantile(
    rate: float, draw_services: Callable[[int, np.random.Generator], np.ndarray], workers: int, files: int = 20_000,
    quantile: float = 0.95, seed: int = 0,
) -> float:  # fmt: skip
    """The wait that this part of the files stays below, simulated; the first tenth, which warms up, does not count.

    Args:
        rate: files in a unit of time.
        draw_services: (files, rng) -> how long each takes, (files,).
    """
    rng = np.random.default_rng(seed)
    arrivals = draw_arrivals(rate, files, rng)
    waits = simulate_waits(arrivals, draw_services(files, rng), workers)
    return float(np.quantile(waits[int(WARM_UP * files) :], quantile))


def size_for_wait(
    rate: float, draw_services: Callable[[int, np.random.Generator], np.ndarray], limit: float, files: int = 20_000,
    quantile: float = 0.95, seed: int = 0,
) -> int:  # fmt: skip
    """The fewest workers with which this part of the files waits no longer than `limit`; arguments as above.

    Begins with the fewest that do more work than comes.

    Raises:
        ScalingError: a number that cannot be one of these, or more than `MOST_WORKERS` are needed.
    """
    if not (rate > 0 and limit >= 0 and 0 < quantile < 1):
        raise ScalingError("A rate above 0, a limit from 0 on, a quantile in between.", where=f"{rate=}, {limit=}")
    rng = np.random.default_rng(seed)
    mean = float(np.mean(draw_services(files, rng)))
    workers = math.floor(rate * mean) + 1
    while workers <= MOST_WORKERS:
        if wait_quantile(rate, draw_services, workers, files, quantile, seed) <= limit:
            return workers
        workers += 1
    raise ScalingError(f"More than {MOST_WORKERS} workers are needed.", where=f"{rate=}, mean service {mean:.3g}")


# --- formulas ---------------------------------------------------------------------------------------------------------


def erlang_c(load: float, workers: int) -> float:
    """The probability that a file has to wait, where services are exponential (M/M/c).

    Erlang 1917, through the recursion of Erlang B, which overflows for no number of workers.

    Args:
        load: mean arrivals during a mean service; below `workers`, else the queue grows for ever.
    """
    if not 0 < load < workers:
        raise ScalingError("The load must lie between 0 and the workers: else the queue grows.", where=f"{load=}")
    blocked = 1.0  # Erlang B without a worker
    for number in range(1, workers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def mmc_wait_quantile(rate: float, mean_service: float, workers: int, quantile: float = 0.95) -> float:
    """The wait that this part of the files stays below in M/M/c: P(wait > t) = C exp(-(c mu - lambda) t)."""
    waiting = erlang_c(rate * mean_service, workers)
    beyond = 1 - quantile
    return 0.0 if waiting <= beyond else math.log(waiting / beyond) / (workers / mean_service - rate)


def md1_mean_wait(rate: float, service: float) -> float:
    """The mean wait for one worker that takes the same time for each file (M/D/1, Pollaczek and Khinchine)."""
    load = rate * service
    if not 0 < load < 1:
        raise ScalingError("The load of one worker must lie between 0 and 1.", where=f"{load=}")
    return load * service / (2 * (1 - load))
