"""What this machine is, and what it can do at best: its description, its framework, its measured roofline."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from labsupport.errors import LabError
from labsupport.paths import atomic_write, cache_dir
from labsupport.system import asked_threads, count_physical_cores, name_system, read_cpu, usable_cores, usable_memory

FRAMEWORKS = ("torch", "mindspore")
PACKAGES = (*FRAMEWORKS, "mindnlp", "transformers", "numpy", "onnxruntime", "faster-whisper", "ctranslate2", "torchao")

# Our name of a CPU feature: how /proc/cpuinfo (x86, then Arm) and macOS's sysctl spell it.
CPU_FEATURES = {
    "avx2": {"avx2"},
    "avx512f": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "avx512_fp16": {"avx512_fp16"},
    "amx_int8": {"amx_int8"},
    "amx_bf16": {"amx_bf16"},
    "neon": {"asimd", "neon", "advsimd"},
    "i8mm": {"i8mm", "feat_i8mm"},
    "bf16": {"bf16", "feat_bf16"},
    "sve": {"sve"},
}
# The one feature that decides how fast matrices go names the machine: a Xeon with AMX is not a Xeon without.
SLUG_FEATURES = {"amx_int8": "amx", "avx512f": "avx512", "avx2": "avx2", "sve": "sve", "neon": "neon"}


class BackendError(LabError):
    """The backend asked for is unknown, or its framework is not installed."""


class RooflineError(LabError):
    """A limit was asked for that this machine's roofline does not hold."""


def backend(chosen: str | None = None) -> str:
    """The framework of this process: `chosen`, else `LAB_BACKEND`, else the one loaded already, else the one installed,
    torch first.

    Raises:
        BackendError: the name is unknown, or its framework is not installed.
    """
    name = chosen or os.environ.get("LAB_BACKEND") or loaded() or next(filter(is_installed, FRAMEWORKS), None)
    if name is None:
        raise BackendError("Neither torch nor mindspore is installed.", hint="`./lab run` makes the environment.")
    if name not in FRAMEWORKS:
        raise BackendError(f"There is no backend {name!r}.", hint=f"Choose one of: {', '.join(FRAMEWORKS)}.")
    if not is_installed(name):
        raise BackendError(f"The backend {name!r} is not installed here.", hint=f"Install {name}, or take the other.")
    return name


def loaded() -> str | None:
    """The framework that this process has imported. mindnlp puts a `torch` of its own beside mindspore."""
    return next((name for name in reversed(FRAMEWORKS) if name in sys.modules), None)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def synchronise() -> None:
    """Waits until all that the framework was given is done (MindSpore queues on CPU too). Imports no framework."""
    if on_ascend():
        sys.modules["mindspore"].runtime.synchronize()
    elif "mindspore" in sys.modules:  # its public synchronize() logs an error on CPU, and does not wait the first time
        sys.modules["mindspore.common.api"]._pynative_executor.sync()
    elif on_cuda():
        sys.modules["torch"].cuda.synchronize()


def on_cuda() -> bool:
    """Whether this process has used a CUDA device so far. Imports no framework."""
    torch = None if "mindspore" in sys.modules else sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def on_ascend() -> bool:
    """Whether this process computes on an Ascend NPU. Imports no framework."""
    mindspore = sys.modules.get("mindspore")
    return mindspore is not None and mindspore.get_context("device_target") == "Ascend"


# --- what is here ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accelerator:
    """A GPU or NPU: `memory_bytes` in all, `capability` as its maker counts ("9.0"; empty where there is none)."""

    name: str
    memory_bytes: int
    capability: str = ""


@dataclass(frozen=True)
class Machine:
    """What this process can use, without anything private in it.

    `name` is a slug that is the same on every machine of this kind ("intel-xeon-2c-avx512"); `cores` are logical,
    `physical_cores` real ones, both after affinity and control-group limits; `memory_bytes` likewise; `versions`
    maps each package that matters and is installed to its version.
    """

    name: str
    cpu: str
    cores: int
    physical_cores: int
    memory_bytes: int
    features: tuple[str, ...]
    accelerators: tuple[Accelerator, ...]
    versions: dict[str, str]
    system: str
    python: str

    def facts(self) -> dict[str, str]:
        """What a reader wants to see, label to text."""
        devices = [f"{a.name}, {format_bytes(a.memory_bytes)} {a.capability}".strip() for a in self.accelerators]
        return {
            "machine": self.name,
            "CPU": f"{self.cpu}, {self.cores} usable cores ({self.physical_cores} physical)",
            "CPU features": ", ".join(self.features) or "none known",
            "memory": format_bytes(self.memory_bytes),
            "accelerators": "; ".join(devices) or "none",
            "system": f"{self.system}, Python {self.python}",
            "packages": ", ".join(f"{package} {version}" for package, version in self.versions.items()),
        }

    def __str__(self) -> str:
        return "\n".join(f"{label:>13}  {text}" for label, text in self.facts().items())

    def _repr_markdown_(self) -> str:
        return "\n".join(["| | |", "|---|---|", *(f"| {label} | {text} |" for label, text in self.facts().items())])


def describe(chosen: str | None = None) -> Machine:
    """Describes this machine as the process's backend sees it; loads that framework alone, and none if none is here.

    Args:
        chosen: the backend, as in `backend()`; its accelerators are the ones listed.
    """
    cpu, flags = read_cpu()
    features = tuple(name for name, spellings in CPU_FEATURES.items() if spellings & flags)
    cores = usable_cores()
    accelerators = find_accelerators(backend(chosen)) if any(map(is_installed, FRAMEWORKS)) else ()
    return Machine(
        name=make_slug(cpu, cores, features, accelerators),
        cpu=cpu,
        cores=cores,
        physical_cores=count_physical_cores(cores),
        memory_bytes=usable_memory(),
        features=features,
        accelerators=accelerators,
        versions=dict(installed_versions()),
        system=name_system(),
        python=platform.python_version(),
    )


def format_bytes(count: float) -> str:
    """3.2 GB, 41 MB: powers of ten, as the articles count."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"


def find_accelerators(name: str) -> tuple[Accelerator, ...]:
    """The GPUs or NPUs that the backend `name` can use; loads that framework."""
    if name == "torch":
        import torch

        if not torch.cuda.is_available():
            return ()
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return tuple(Accelerator(card.name, card.total_memory, f"{card.major}.{card.minor}") for card in cards)
    import mindspore

    if not on_ascend():
        return ()
    card = mindspore.hal.get_device_properties(0)
    return (Accelerator(card.name, card.total_memory),) * mindspore.hal.device_count()


def make_slug(cpu: str, cores: int, features: tuple[str, ...], accelerators: tuple[Accelerator, ...]) -> str:
    """A file-name-safe name of this kind of machine: CPU, cores, what its matrices run on, first accelerator."""
    model = re.sub(r"\((r|tm|c)\)|@.*|\b(cpu|processor|\d+-core|with .*)(?=\s|$)", " ", cpu.lower())
    feature = next((label for name, label in SLUG_FEATURES.items() if name in features), None)
    devices = [f"{len(accelerators)}x" * (len(accelerators) > 1), accelerators[0].name] if accelerators else []
    words = [model, f"{cores}c", *([feature] if feature else []), *devices]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def installed_versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


# --- what it can do at best ----------------------------------------------------------------------------------------


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
        """The least time in which this machine can move `bytes` of memory and do `flops` in `dtype`.

        Raises:
            RooflineError: the dtype has no measured peak here.
        """
        if flops and dtype not in self.matmul:
            raise RooflineError(f"No matrix peak of {dtype} is known here.", hint=f"Known: {', '.join(self.matmul)}.")
        bandwidth = max(self.copy_bytes_per_s, self.read_bytes_per_s)
        return max(bytes / bandwidth, flops / self.matmul[dtype] if flops else 0.0)

    def fraction(self, seconds: float, bytes: float = 0, flops: float = 0, dtype: str = "float32") -> float:
        """The part of the limit that a step reached: 1.0 is as fast as this machine can, 0.5 takes twice as long.

        Args:
            seconds: how long the step took.
            bytes: memory that it must read and write.
            flops: multiplies and adds that it must do, in `dtype`.

        Raises:
            RooflineError: the dtype has no measured peak here.
        """
        return self.seconds(bytes, flops, dtype) / seconds

    def __str__(self) -> str:
        peaks = [
            f"{dtype} matrices {peak / 1e9:,.0f} G{'' if dtype == 'int8' else 'FL'}OP/s"
            for dtype, peak in self.matmul.items()
        ]
        moves = [
            f"copy {self.copy_bytes_per_s / 1e9:.1f} GB/s (read and write)",
            f"read {self.read_bytes_per_s / 1e9:.1f} GB/s",
        ]
        return "\n".join([f"limits measured on {self.device}:", *moves, *peaks])

    def _repr_markdown_(self) -> str:
        return "\n\n".join([str(self).splitlines()[0], "\n".join(f"- {line}" for line in str(self).splitlines()[1:])])


def roofline(refresh: bool = False, chosen: str | None = None) -> Roofline:
    """The machine's limits: measured in some five seconds on first use, then read from the cache.

    The cached file belongs to one machine, backend, version and number of threads; a damaged one is measured again.

    Args:
        refresh: measure again in any case.
        chosen: the backend, as in `backend()`.
    """
    framework = backend(chosen)
    machine = describe(framework)
    threads = asked_threads() or machine.cores
    name = f"{machine.name}-{framework}-{machine.versions[framework]}-{threads}t.json"
    target = cache_dir() / "roofline" / name
    cached = None if refresh else read_roofline(target)
    if cached is None:
        cached = measure_roofline(framework, machine)
        with atomic_write(target) as part:
            part.write_text(json.dumps(asdict(cached), indent=1))
    return cached


def read_roofline(path: Path) -> Roofline | None:
    """The roofline in this file; None if there is no file, or none that makes sense."""
    try:
        limits = Roofline(**json.loads(path.read_text()))
        numbers = [limits.copy_bytes_per_s, limits.read_bytes_per_s, *limits.matmul.values()]
        return limits if all(math.isfinite(n) and n > 0 for n in numbers) else None
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


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
    """A copy and a read of `size` bytes of main memory, each core its own part; NumPy lets go of the GIL in both."""
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
        return lambda: torch._int_mm(left, right.t())  # transposed, as a linear layer keeps its weights
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
        except (RuntimeError, TypeError):  # how both frameworks say that a device has no such kernel
            return best or None
        best = max(best, 2 * n**3 / seconds)
        if seconds > 0.05:
            break
    return best
