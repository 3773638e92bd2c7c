"""The house holds so many, and says when to come back."""

from __future__ import annotations

import contextlib

import pytest

from labsupport.serving.admission import Admission
from labsupport.serving.problems import Problem


def test_it_holds_so_many_and_frees_each_place():
    house = Admission(most=2, active=1)
    with house.enter():
        with contextlib.suppress(KeyError), house.enter():
            assert house.inside == 2
            with pytest.raises(Problem) as caught:
                house.enter().__enter__()
            assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
            raise KeyError
        assert house.inside == 1
    assert house.inside == 0


def test_the_wait_follows_what_requests_take_and_is_never_absurd():
    house = Admission(most=40, active=8)
    house.inside = 40
    for _ in range(100):
        house.note(16.0)
    assert house.wait() == pytest.approx(16 * 40 / 8 / 4, rel=0.01)
    for _ in range(100):
        house.note(10_000.0)
    assert house.wait() == 60.0
    for _ in range(100):
        house.note(0.0)
    assert house.wait() == 1.0
