"""Processes that compute together: their results, and what becomes of all when one fails."""

from __future__ import annotations

import psutil
import pytest

from labsupport.base.errors import ScalingError
from labsupport.scaling.process_group import run_together

pytestmark = pytest.mark.slow


def group(function, *arguments, processes=2, **options):
    """Calls one of the standard library's functions in each process."""
    return run_together(function, processes, *arguments, **options)


def test_each_process_gives_its_result_in_the_order_of_ranks():
    assert group("os:getenv", "RANK") == ["0", "1"]


def test_they_talk_over_the_loopback_device_alone():
    assert group("os:getenv", "GLOO_SOCKET_IFNAME", processes=1) in (["lo"], ["lo0"], [None])


def test_a_process_that_fails_ends_all_with_its_last_words():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(ScalingError, match=r"failed with exit code 1") as error:
        group("os:listdir", "/nowhere at all")
    assert "nowhere at all" in str(error.value)
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def test_processes_that_do_not_end_are_ended():
    with pytest.raises(ScalingError, match="did not end in time"):
        group("time:sleep", 60, processes=1, timeout=6)


def test_no_process_is_no_group():
    with pytest.raises(ScalingError):
        group("os:getpid", processes=0)
