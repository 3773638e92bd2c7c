"""Batches are of one key, fair, in order, and leave nothing out."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from labsupport.serving.batching import Lane, take_batch
from labsupport.speech.segments import Span


def lane(key: str, count: int) -> Lane:
    return Lane(key, deque((number, Span(number, number + 1)) for number in range(count)))


def test_each_request_gets_a_window_before_any_gets_a_second():
    long, short, other = lane("en", 10), lane("en", 1), lane("de", 3)
    lanes = deque([long, other, short])
    batch = take_batch(lanes, 4)
    assert [(each, number) for each, number, _ in batch] == [(long, 0), (short, 0), (long, 1), (long, 2)]
    assert list(lanes) == [other, long, short]
    assert {each for each, _, _ in take_batch(lanes, 4)} == {other}


def test_without_windows_there_is_no_batch():
    assert take_batch(deque(), 4) == []
    assert take_batch(deque([lane("en", 0)]), 4) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=8), st.integers(1, 6))
def test_all_windows_come_once_in_order_and_nobody_waits_long(wanted, most):
    lanes = deque(lane(*each) for each in wanted)
    found, waited = [], dict.fromkeys(map(id, lanes), 0)
    while batch := take_batch(lanes, most):
        assert len(batch) <= most
        assert len({each.key for each, _, _ in batch}) == 1
        served = {id(each) for each, _, _ in batch}
        for each in lanes:
            waited[id(each)] = 0 if id(each) in served or not each.windows else waited[id(each)] + 1
            assert waited[id(each)] <= len(lanes)
        found += [(id(each), number) for each, number, _ in batch]
    assert len(found) == sum(count for _, count in wanted) == len(set(found))
    for each in lanes:
        numbers = [number for owner, number in found if owner == id(each)]
        assert numbers == sorted(numbers)
