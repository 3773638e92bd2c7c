"""Simulated waits against the formulas of queues, and against a slow simulation of another kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labsupport.base.errors import ScalingError
from labsupport.scaling import waiting
from labsupport.scaling.waiting import (
    draw_arrivals,
    erlang_c,
    md1_mean_wait,
    mmc_wait_quantile,
    simulate_waits,
    size_for_wait,
    wait_quantile,
)

FILES = 200_000


def exponential(mean):
    return lambda files, rng: rng.exponential(mean, files)


def constant(service):
    return lambda files, rng: np.full(files, service)


# --- formulas, each against another way to the same number ----------------------------------------------------------


@given(workers=st.integers(1, 60), used=st.floats(0.01, 0.99))
def test_erlang_c_is_the_sum_in_the_textbooks(workers, used):
    load = used * workers
    last = load**workers / math.factorial(workers) * workers / (workers - load)
    others = sum(load**k / math.factorial(k) for k in range(workers))
    assert erlang_c(load, workers) == pytest.approx(last / (others + last))


def test_erlang_c_of_a_published_table_and_of_many_workers():
    assert erlang_c(2.0, 3) == pytest.approx(4 / 9)  # M/M/3 at two thirds
    assert erlang_c(0.5, 1) == pytest.approx(0.5)  # M/M/1: the load itself
    assert 0 < erlang_c(1990.0, 2000) < 1  # whose factorials overflow


@pytest.mark.parametrize("load", [0, -1, 3, 3.5, float("nan")])
def test_a_queue_that_grows_for_ever_has_no_probability(load):
    with pytest.raises(ScalingError, match="queue grows"):
        erlang_c(load, 3)


@pytest.mark.parametrize("load", [0, 1, 2])
def test_neither_has_one_worker(load):
    with pytest.raises(ScalingError):
        md1_mean_wait(load, 1.0)


# --- the simulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "used"), [(1, 0.6), (4, 0.8), (16, 0.9)])
def test_exponential_services_wait_as_erlangs_formula_says(workers, used):
    mean, rng = 30.0, np.random.default_rng(1)
    rate = used * workers / mean
    waits = simulate_waits(draw_arrivals(rate, FILES, rng), rng.exponential(mean, FILES), workers)
    assert np.mean(waits > 0) == pytest.approx(erlang_c(rate * mean, workers), rel=0.05)
    assert np.quantile(waits, 0.95) == pytest.approx(mmc_wait_quantile(rate, mean, workers), rel=0.1)


def test_constant_services_wait_as_pollaczek_and_khinchine_say():
    rng = np.random.default_rng(2)
    waits = simulate_waits(draw_arrivals(0.07, FILES, rng), np.full(FILES, 10.0), 1)
    assert waits.mean() == pytest.approx(md1_mean_wait(0.07, 10.0), rel=0.05)
    exponential_mean = 0.7 * 10 / (1 - 0.7)  # M/M/1, twice as long: a simulation that mixed them up would show
    assert waits.mean() < 0.6 * exponential_mean


def mdc_mean_wait(rate, service, workers):
    """Crommelin 1932, for workers that all take the same time, by tails of Poisson distributions."""
    load, periods = rate * service, np.arange(1, 2000)
    reached = stats.poisson.sf(periods * workers - 1, periods * load)  # at least i c arrivals in i services
    passed = stats.poisson.sf(periods * workers, periods * load)
    return service * np.sum(reached - workers / load * passed)


@pytest.mark.parametrize(("workers", "used"), [(1, 0.7), (3, 0.8), (10, 0.9)])
def test_constant_services_of_several_workers_wait_as_crommelin_says(workers, used):
    rng, rate = np.random.default_rng(3), used * workers / 10.0
    waits = simulate_waits(draw_arrivals(rate, FILES, rng), np.full(FILES, 10.0), workers)
    assert waits.mean() == pytest.approx(mdc_mean_wait(rate, 10.0, workers), rel=0.1)
    assert md1_mean_wait(0.07, 10.0) == pytest.approx(mdc_mean_wait(0.07, 10.0, 1), rel=1e-6)


def simulate_slowly(arrivals, services, workers):
    """Each worker's list of jobs, searched from the front: no heap."""
    ends = [[0.0] for _ in range(workers)]
    waits = []
    for arrival, service in zip(arrivals, services, strict=True):
        first = min(ends, key=lambda jobs: jobs[-1])
        begin = max(arrival, first[-1])
        waits.append(begin - arrival)
        first.append(begin + service)
    return waits


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 30)), min_size=1, max_size=40), st.integers(1, 6)
)  # fmt: skip
def test_waits_are_those_of_a_slow_simulation(files, workers):
    arrivals = np.cumsum([gap for gap, _ in files])
    services = np.array([service for _, service in files])
    np.testing.assert_allclose(
        simulate_waits(arrivals, services, workers), simulate_slowly(arrivals, services, workers), atol=1e-9
    )


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_another_worker_makes_no_file_wait_longer(workers, seed):
    rng = np.random.default_rng(seed)
    arrivals, services = draw_arrivals(1.0, 300, rng), rng.exponential(workers, 300)
    fewer, more = simulate_waits(arrivals, services, workers), simulate_waits(arrivals, services, workers + 1)
    assert (more <= fewer + 1e-9).all()


# --- sizing -----------------------------------------------------------------------------------------------------------


def test_the_size_is_the_fewest_that_the_formula_allows():
    rate, mean, limit = 0.2, 30.0, 20.0
    expected = next(c for c in range(7, 50) if mmc_wait_quantile(rate, mean, c) <= limit)
    assert size_for_wait(rate, exponential(mean), limit, files=FILES) == expected


def test_one_worker_fewer_would_not_do():
    workers = size_for_wait(0.2, constant(30.0), 5.0)
    assert wait_quantile(0.2, constant(30.0), workers) <= 5 < wait_quantile(0.2, constant(30.0), workers - 1)


def test_no_wait_at_all_takes_more_workers_than_some():
    sizes = [size_for_wait(0.2, exponential(30.0), limit) for limit in (0.0, 10.0, 60.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 0.2 * 30.0


@pytest.mark.parametrize(("rate", "limit"), [(0, 1), (-1, 1), (1, -1), (float("nan"), 1)])
def test_numbers_that_cannot_be(rate, limit):
    with pytest.raises(ScalingError):
        size_for_wait(rate, constant(1.0), limit)


def test_too_many_workers_are_refused(monkeypatch):
    monkeypatch.setattr(waiting, "MOST_WORKERS", 3)
    with pytest.raises(ScalingError, match="More than 3"):
        size_for_wait(1.0, constant(10.0), 1.0)
