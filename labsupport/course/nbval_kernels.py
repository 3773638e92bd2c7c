"""A pytest plugin for notebooks: how tests that run side by side share a kernel, and how a kernel is started.

A notebook under test is held to its results, not to its times: nothing in it is timed more often than twice.

A kernel gets the numbers of its ports a second before it opens them. On a busy machine, where several start at once,
one may find a port taken, and dies. Nothing of its notebook has run by then, so it is started again. A kernel that dies
three times is a fault and fails the notebook. One that dies in a cell fails it at once: nbval would wait
for its answer.
"""

from __future__ import annotations

import time
from queue import Empty
from typing import Any

from nbval import kernel
from xdist.scheduler import LoadScopeScheduling

from labsupport.course.kernels import own_spec
from labsupport.machine import children

STARTS = 3
FEW_RUNS = {"LAB_MOST_RUNS": "2"}  # see `timing.compare`
ONE_BY_ONE = "test_notebooks.py"  # each of its tests runs a whole notebook, in a kernel of its own
SECONDS = 1  # between two looks whether a kernel that does not answer is alive
start_once = kernel.start_new_kernel
get_message_once = kernel.RunningKernel.get_message


class KernelSpecs(kernel.NbvalKernelspecManager):
    """nbval's own kernel is this interpreter with nothing of the notebook's folder, and ends with this process."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        own = kernel_name == kernel.CURRENT_ENV_KERNEL_NAME
        return own_spec() if own else super().get_kernel_spec(kernel_name)


class KernelScheduling(LoadScopeScheduling):
    """xdist's `--dist loadfile`, but each test of the file ONE_BY_ONE may go to another process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return nodeid if path.endswith(ONE_BY_ONE) else path


def pytest_xdist_make_scheduler(config: Any, log: Any) -> KernelScheduling:
    return KernelScheduling(config, log)


def start(*args, **options):
    """nbval's `start_new_kernel`, which logs each failure, up to three times.

    Raises:
        RuntimeError: the last start failed, too.
    """
    options["env"] = children.environment(**FEW_RUNS)
    for _ in range(STARTS - 1):
        try:
            return start_once(*args, **options)
        except RuntimeError:
            continue
    return start_once(*args, **options)


def get_message(running: Any, stream: str, timeout: float | None = None) -> Any:
    """nbval's `RunningKernel.get_message`, which gives up where the kernel has died.

    Raises:
        RuntimeError: it has died.
        Empty: no message came in `timeout` seconds.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = SECONDS if end is None else min(SECONDS, max(0, end - time.monotonic()))
        was_alive = running.is_alive()  # before the look: its last messages may be on their way
        try:
            return get_message_once(running, stream, timeout=left)
        except Empty:
            if not was_alive:
                raise RuntimeError("The kernel died in this cell.") from None
            if end is not None and time.monotonic() >= end:
                raise


kernel.start_new_kernel = start
kernel.NbvalKernelspecManager = KernelSpecs
kernel.RunningKernel.get_message = get_message
