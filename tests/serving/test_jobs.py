"""A job ends for one reason, and takes events from other threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from labsupport.base.errors import AudioError
from labsupport.serving.jobs import Ask, Finished, Job, Piece
from labsupport.serving.problems import ClientGone, Problem


def run(use) -> None:
    async def inside():
        await use(Job(Ask(), Path("none"), limit=60))

    asyncio.run(inside())


def test_the_first_reason_counts():
    async def use(job):
        assert job.wanted
        job.check()
        job.end(ClientGone())
        job.end(KeyError())
        assert not job.wanted
        with pytest.raises(ClientGone):
            job.check()

    run(use)


def test_its_time_ends_it():
    async def use(job):
        job.limit = -1.0
        assert not job.wanted
        with pytest.raises(Problem) as caught:
            job.check()
        assert caught.value.status == 504
        job.fail(KeyError())
        assert await job.events.get() is caught.value

    run(use)


def test_events_come_from_another_thread_in_order():
    async def use(job):
        given = [Piece(str(number)) for number in range(50)] + [Finished("en", 1.0, 1)]
        thread = threading.Thread(target=lambda: [job.put(each) for each in given])
        thread.start()
        assert [await job.events.get() for _ in given] == given
        thread.join()

    run(use)


def test_an_error_becomes_a_problem():
    async def use(job):
        job.fail(AudioError("Cut."))
        assert (await job.events.get()).status == 422

    run(use)


def test_an_event_after_the_loop_has_ended_is_lost_quietly():
    jobs = []

    async def use(job):
        jobs.append(job)

    run(use)
    jobs[0].put(Piece("late"))
    assert jobs[0].events.empty()
