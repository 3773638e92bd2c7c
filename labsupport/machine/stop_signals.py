"""Ctrl-C, and the signals that a system ends a process with: they stop the work, but never in the middle of a write."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator

PATIENCE = 1.0  # seconds after which another Ctrl-C is no echo of the first: a terminal and a wrapper may each send it
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopSignals:
    """Inside its `with`, a signal interrupts only what stands under `interruptible`; elsewhere `check` raises it.

    Another Ctrl-C, a second later, interrupts anything, for a write may wait for a reader without end. A signal that is
    ignored, as nohup ignores SIGHUP, stays so. Python has signals in the main thread alone: in another, nothing is
    changed.

    number: of the first signal that came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.may_interrupt = False
        self.first_ctrl_c = math.inf
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            found = {each: signal.getsignal(each) for each in SIGNALS}
            self.before = {each: handler for each, handler in found.items() if handler not in (signal.SIG_IGN, None)}
            for each in self.before:
                signal.signal(each, self.handle)
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

    def handle(self, number: int, frame: object) -> None:
        """What Python calls when a signal comes. One interruption is enough: what it leads to is tidied up in peace."""
        self.number = self.number or number
        insists = number == signal.SIGINT and time.monotonic() > self.first_ctrl_c + PATIENCE
        if number == signal.SIGINT:
            self.first_ctrl_c = min(self.first_ctrl_c, time.monotonic())
        if self.may_interrupt or insists:
            self.may_interrupt = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """What may be left half done. Raises KeyboardInterrupt where a signal comes, or came before."""
        self.may_interrupt = True
        try:
            self.check()
            yield
        finally:
            self.may_interrupt = False

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come; a library may have swallowed what `handle` raised."""
        if self.number is not None:
            self.may_interrupt = False
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """As a shell gives it: 128 and the signal; that of Ctrl-C where no signal was caught here."""
        return 128 + (self.number or signal.SIGINT)
