"""Signals that stop the work: where they interrupt it, where they wait, and what is as before afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from labsupport.machine import stop_signals
from labsupport.machine.stop_signals import SIGNALS, StopSignals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def interrupt(stop: StopSignals, number: int, done: list[str]) -> None:
    """Work that a signal interrupts, and what is tidied up after it, when more of them come."""
    with stop.interruptible():
        try:
            send(number)
            done.append("work")
        finally:
            for each in SIGNALS:
                send(each)
            done.append("tidied")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_interrupts_only_what_may_be_interrupted(number, code):
    done = []
    with StopSignals() as stop:
        with pytest.raises(KeyboardInterrupt):
            interrupt(stop, number, done)
        send(signal.SIGTERM)
        done.append("written")
    assert (done, stop.number, stop.exit_code) == (["tidied", "written"], number, code)


def test_a_signal_that_comes_outside_is_raised_at_the_next_turn():
    with StopSignals() as stop:
        stop.check()
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        with pytest.raises(KeyboardInterrupt), stop.interruptible():
            raise AssertionError


def test_another_ctrl_c_later_interrupts_anything(monkeypatch):
    with StopSignals():
        send(signal.SIGINT)
        send(signal.SIGINT)  # by a wrapper that passes it on
        monkeypatch.setattr(stop_signals, "PATIENCE", -1)
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_are_as_before_and_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(each) for each in SIGNALS]
        with StopSignals() as stop:
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) == stop.handle
        assert stop.number is None
        assert [signal.getsignal(each) for each in SIGNALS] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_nothing():
    handlers = []

    def enter():
        with StopSignals() as stop, stop.interruptible():
            handlers.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(each) for each in SIGNALS]
