"""Bark through MindNLP: one real trip, in a process of its own."""

from __future__ import annotations

import pytest

from labsupport.base.errors import NotAvailable
from labsupport.benchmarks.bark import STAGES
from labsupport.via_mindnlp import process
from labsupport.via_mindnlp.bark import run_bark


@pytest.fixture(scope="module")
def trip():
    return run_bark(tokens=3)


def test_it_fails_where_the_page_says_it_does(trip):
    assert (trip.failed_at, trip.failure) == ("coarse", "AttributeError: Module 'mindtorch' has no attribute 'hstack'")


def test_with_that_function_every_stage_says_what_torch_says(trip):
    assert tuple(trip.seconds) == STAGES
    assert min(trip.seconds.values()) > 0
    assert trip.codes == trip.torchs
    assert len({code for book in trip.codes for code in book}) > 8  # not all alike, which equal could be by chance


def test_without_mindnlp_it_says_so(monkeypatch):
    monkeypatch.setattr(process, "is_installed", lambda name: False)
    with pytest.raises(NotAvailable, match="not installed"):
        run_bark()
