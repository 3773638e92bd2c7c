"""The limits of this machine: its measured bandwidth and matrix peaks."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from labsupport.base.errors import MachineError
from labsupport.base.paths import atomic_write, cache_dir, using_folder
from labsupport.base.records import from_fields, read_json
from labsupport.machine.backend import choose_backend, synchronise
from labsupport.machine.description import Machine, describe_machine
from labsupport.machine.os_info import asked_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roofline:
    """The limits measured on this machine, each the best of several runs.

    `copy_bytes_per_s` counts bytes read and bytes written; `matmul` maps a dtype to the flop/s (op/s for int8) of a
    square matrix product, a multiply and an add being two. A dtype that cannot run here is absent.
    """

    device: str
    copy_bytes_per_s: float
    read_bytes_per_s: float
    matmul: dict[str, float]

    def seconds(self, bytes: float = 0, flops: float = 0, dtype: str = "float32") -> float:
        """The least time in which this machine can move `bytes` of memory and do `flops` in `dtype`; MachineError
        where that dtype has no measured peak here.
        """
        if flops and dtype not in self.matmul:
            raise MachineError(f"No matrix peak of {dtype} is known here.", hint=f"Known: {', '.join(self.matmul)}.")
        bandwidth = max(self.copy_bytes_per_s, self.read_bytes_per_s)
        return max(bytes / bandwidth, flops / self.matmul[dtype] if flops else 0.0)

    def fraction(self, seconds: float, bytes: float = 0, flops: float = 0, dtype: str = "float32") -> float:
        """The part of the limit that a step of `seconds` reached: 1.0 is as fast as this machine can, 0.5 takes twice
        as long. The step must read and write `bytes`, and do `flops` multiplies and adds; see `seconds`.
        """
        return self.seconds(bytes, flops, dtype) / seconds

    def __str__(self) -> str:
        lines = [f"limits measured on {self.device}:"]
        lines.append(f"copy {self.copy_bytes_per_s / 1e9:.1f} GB/s (read and write)")
        lines.append(f"read {self.read_bytes_per_s / 1e9:.1f} GB/s")
        for dtype, peak in self.matmul.items():
            lines.append(f"{dtype} matrices {peak / 1e9:,.0f} G{'' if dtype == 'int8' else 'FL'}OP/s")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        heading, *limits = str(self).splitlines()
        return "\n- ".join([f"{heading}\n", *limits])


def find_roofline(refresh: bool = False, chosen: str | None = None) -> Roofline:
    """The machine's limits: measured in some five seconds on first use, then read from the cache.

    The cached file belongs to one machine, backend (`chosen`, as in `choose_backend`), version and number of threads.
    A damaged one is measured again, and with `refresh` any.
    """
    framework = choose_backend(chosen)
    machine = describe_machine(framework)
    threads = asked_threads() or machine.cores
    name = f"{machine.name}-{framework}-{machine.versions[framework]}-{threads}t.json"
    target = cache_dir() / "roofline" / name
    cached = None if refresh else read_roofline(target)
    if cached is None:
        cached = measure_roofline(framework, machine)
        with using_folder(target.parent, "LAB_CACHE"), atomic_write(target) as part:
            part.write_text(json.dumps(asdict(cached), indent=1))
    return cached


def read_roofline(path: Path) -> Roofline | None:
    """The roofline in this file; None if there is no file, or none that makes sense: a warning says so."""
    try:
        limits = from_fields(Roofline, read_json(path))
        if min(limits.copy_bytes_per_s, limits.read_bytes_per_s, *limits.matmul.values()) <= 0:
            raise ValueError("a limit is not above zero")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is damaged or of another version of the lab, and is measured again: %s.", path, error)
        return None
    return limits


def measure_roofline(framework: str, machine: Machine) -> Roofline:
    """Measures bandwidth on the accelerator, else on the host with all cores; and the backend's matrix peaks."""
    if machine.accelerators:
        copy, read, size = *device_moves(framework), 2**30
    else:
        size = host_buffer_bytes(machine.memory_bytes)
        copy, read = host_moves(size, machine.cores)
    peaks = {dtype: matmul_peak(prepare) for dtype, prepare in matmuls(framework, bool(machine.accelerators)).items()}
    return Roofline(
        device=machine.accelerators[0].name if machine.accelerators else machine.cpu,
        copy_bytes_per_s=2 * size / best_time(copy),
        read_bytes_per_s=size / best_time(read),
        matmul={dtype: peak for dtype, peak in peaks.items() if peak},
    )


def best_time(work: Callable[[], object], runs: int = 5) -> float:
    """Seconds of the fastest of several runs, after one to warm up: a limit is what the machine can do undisturbed."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        synchronise()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def host_buffer_bytes(memory: int) -> int:
    """A buffer that no cache holds: twice the last level's size, 256 MB at least, an eighth of the memory at most."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    largest = max((int(path.read_text().strip().rstrip("K")) * 1024 for path in caches), default=64 * 2**20)
    return min(max(2 * largest, 256 * 10**6), memory // 8)


def host_moves(size: int, cores: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A copy and a read of `size` bytes of main memory, each core its own part; NumPy releases the GIL in both."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    pool = ThreadPoolExecutor(cores)
    source, target = (np.array_split(np.ones(size // 4, np.float32), cores) for _ in range(2))
    return (
        lambda: list(pool.map(np.copyto, target, source)),
        lambda: list(pool.map(lambda part: np.dot(part, part), source)),
    )


def device_moves(framework: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A copy and a read of 1 GiB of the accelerator's memory."""
    if framework == "torch":
        import torch

        source = torch.ones(2**28, device="cuda")
        target = torch.empty_like(source)
        return lambda: target.copy_(source), source.sum
    import mindspore

    source = mindspore.ops.ones((2**28,), mindspore.float32)
    return lambda: source + 1, source.sum


def matmuls(framework: str, accelerated: bool) -> dict[str, Callable[[int], Callable[[], object]]]:
    """For each dtype: a function that makes two n x n matrices and returns their product as something to run."""
    if framework == "torch":
        dtypes = ("float32", "bfloat16", "float16", "int8")
        return {dtype: functools.partial(torch_matmul, dtype, accelerated) for dtype in dtypes}
    return {dtype: functools.partial(mindspore_matmul, dtype) for dtype in ("float32", "float16")}


def torch_matmul(dtype: str, accelerated: bool, n: int) -> Callable[[], object]:
    import torch

    left, right = (torch.ones(n, n, dtype=getattr(torch, dtype), device="cuda" if accelerated else "cpu") for _ in "ab")
    if dtype == "int8":
        return lambda: torch._int_mm(left, right.t())  # transposed, as a linear layer stores its weights
    return lambda: left @ right


def mindspore_matmul(dtype: str, n: int) -> Callable[[], object]:
    import mindspore

    left, right = (mindspore.ops.ones((n, n), getattr(mindspore, dtype)) for _ in "ab")
    return lambda: mindspore.ops.matmul(left, right)


def matmul_peak(prepare: Callable[[int], Callable[[], object]]) -> float | None:
    """The best op/s over growing sizes, up to the first that takes 50 ms; None where the dtype does not run."""
    best = 0.0
    for n in (256, 512, 1024, 2048, 4096, 8192):
        try:
            seconds = best_time(prepare(n), runs=3)
        except (RuntimeError, TypeError):  # what both frameworks raise where a device has no such kernel
            return best or None
        best = max(best, 2 * n**3 / seconds)
        if seconds > 0.05:
            break
    return best
