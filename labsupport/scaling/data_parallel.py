"""Data parallel: each process has the whole model and a part of the files; accelerate divides and gathers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from labsupport.scaling.process_group import run_together
from labsupport.scaling.worker import Settings, Worker


def transcribe_apart(files: Sequence[str], settings: Settings, processes: int, timeout: float = 600) -> list[dict]:
    """The rows of the files, in their order, made by several processes at once; a row as `Worker.make_row` gives it.

    Raises:
        ScalingError: a process failed.
    """
    function = f"{__name__}:transcribe_share"
    return run_together(function, processes, list(files), asdict(settings), timeout=timeout)[0]


def transcribe_share(files: list[str], settings: dict[str, Any]) -> list[dict]:
    """In one of the processes: its share of the files; the rows of all shares, in the files' order."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state, worker = PartialState(cpu=True), Worker(Settings(**settings))
    with state.split_between_processes(list(enumerate(files))) as share:  # neighbours, the first process the first ones
        rows = [(number, worker.make_row(file)) for number, file in share]
    return [row for _, row in sorted(gather_object(rows), key=lambda pair: pair[0])]


def time_shares(files: list[str], settings: dict[str, Any], runs: int) -> list[tuple[float, float]]:
    """In each process, in turns: seconds until the first process has done all files alone, and until all have done
    their shares. The same files and settings as for `transcribe_share`; a round before the others warms up.
    """
    from accelerate import PartialState

    state, worker = PartialState(cpu=True), Worker(Settings(**settings))

    def time_work(work: list[str]) -> float:
        state.wait_for_everyone()
        begin = time.perf_counter()
        for file in work:
            worker.make_row(file)
        state.wait_for_everyone()
        return time.perf_counter() - begin

    pairs = []
    with state.split_between_processes(files) as share:
        for _ in range(1 + runs):
            pairs.append((time_work(files if state.is_main_process else []), time_work(share)))
    return pairs[1:]
