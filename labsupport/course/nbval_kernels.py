"""A pytest plugin: a kernel of nbval that dies before its first word is started again.

A kernel gets the numbers of its ports a second before it opens them. On a busy machine, where several start at once,
one may find a port taken, and dies. Nothing of its notebook has run by then. A kernel that dies three times is a fault
and fails the notebook.
"""

from __future__ import annotations

from nbval import kernel

STARTS = 3
start_once = kernel.start_new_kernel


def start(*args, **options):
    """nbval's `start_new_kernel`, which logs each failure, up to three times.

    Raises:
        RuntimeError: the last start failed, too.
    """
    for _ in range(STARTS - 1):
        try:
            return start_once(*args, **options)
        except RuntimeError:
            continue
    return start_once(*args, **options)


kernel.start_new_kernel = start
