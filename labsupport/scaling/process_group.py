"""One function in several processes that compute together on this machine's CPU, through torch's gloo.

The processes meet in a file and talk over the loopback device; they end with this one, and all of them when one fails.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labsupport.base.errors import ScalingError
from labsupport.base.paths import atomic_write
from labsupport.machine import children

JOIN = "import sys; from labsupport.scaling.process_group import join; join(*sys.argv[1:])"
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
SECONDS = 0.05  # between two looks at the processes


def run_together(function: str, processes: int, *arguments: Any, timeout: float = 300) -> list[Any]:
    """What `function(*arguments)` gives in each process, in the order of their ranks. JSON carries both ways.

    Args:
        function: "module:name", where `torch.distributed` is ready when it is called.

    Raises:
        ScalingError: one of them failed, with its last lines, or they did not end in `timeout` seconds.
    """
    if processes < 1:
        raise ScalingError("It takes a process.", where=f"processes={processes}")
    with tempfile.TemporaryDirectory(prefix="lab-group-") as folder:
        started = [start(function, folder, rank, processes, arguments) for rank in range(processes)]
        try:
            wait(started, Path(folder), time.monotonic() + timeout)
        finally:
            for process in started:
                process.kill()
                process.wait()
        return [json.loads(Path(folder, f"result-{rank}").read_text("utf-8")) for rank in range(processes)]


def start(function: str, folder: str, rank: int, processes: int, arguments: Sequence[Any]) -> subprocess.Popen:
    """One of the processes; what it writes to standard error goes to a file."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    variables = {name: str(number) for name, number in numbers.items()} | {"OMP_NUM_THREADS": str(threads)}
    if name := LOOPBACK.get(sys.platform):
        variables["GLOO_SOCKET_IFNAME"] = name  # else it would take the address by which others reach this machine
    command = children.guarded(children.python_code(JOIN, function, folder, json.dumps(arguments)))
    with open(Path(folder, f"errors-{rank}"), "wb") as errors:
        environment = children.environment(**variables)
        return subprocess.Popen(command, env=environment, stdout=errors, stderr=errors, stdin=subprocess.DEVNULL)


def wait(started: Sequence[subprocess.Popen], folder: Path, end: float) -> None:
    """Returns when all have ended well; a process whose partner has failed would wait for it."""
    while any(codes := [process.poll() for process in started]) or None in codes:
        if failed := [rank for rank, code in enumerate(codes) if code]:
            lines = (folder / f"errors-{failed[0]}").read_text("utf-8", "replace").strip().splitlines()
            what = f"Process {failed[0]} of {len(started)} failed with exit code {codes[failed[0]]}."
            raise ScalingError(what, where="\n".join(lines[-3:]))
        if time.monotonic() > end:
            raise ScalingError("The processes did not end in time.", hint="Is the machine busy? Give more time.")
        time.sleep(SECONDS)


def join(function: str, folder: str, arguments: str) -> None:
    """Inside one of the processes: meets the others, calls the function, and stores what it gives."""
    import torch.distributed as dist

    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=processes)
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    with atomic_write(Path(folder, f"result-{rank}")) as part:
        part.write_text(json.dumps(result), encoding="utf-8")
    dist.barrier()  # who leaves first would look like a failure to the others
    dist.destroy_process_group()
