"""What this machine is: its processor, memory, accelerators and packages, without anything private."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
from dataclasses import dataclass

from labsupport.base.tables import format_bytes, markdown_table
from labsupport.machine.backend import FRAMEWORKS, choose_backend, is_installed, on_ascend
from labsupport.machine.os_info import count_physical_cores, name_system, read_cpu, usable_cores, usable_memory

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
        return markdown_table([("", ""), *self.facts().items()], left=2)


def describe_machine(chosen: str | None = None) -> Machine:
    """Describes this machine as its backend (see `choose_backend`) finds it; loads that framework alone."""
    cpu, features = describe_cpu()
    cores = usable_cores()
    accelerators = find_accelerators(choose_backend(chosen)) if any(map(is_installed, FRAMEWORKS)) else ()
    return Machine(
        name=make_slug(cpu, cores, features, accelerators),
        cpu=cpu,
        cores=cores,
        physical_cores=count_physical_cores(cores),
        memory_bytes=usable_memory(),
        features=features,
        accelerators=accelerators,
        versions={package: version for package in PACKAGES if (version := installed_version(package))},
        system=name_system(),
        python=platform.python_version(),
    )


def describe_cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name, and our names of what it can do."""
    cpu, flags = read_cpu()
    return cpu, tuple(name for name, spellings in CPU_FEATURES.items() if spellings & flags)


def name_cpu_machine() -> str:
    """The name of this machine without its accelerators; loads no framework."""
    cpu, features = describe_cpu()
    return make_slug(cpu, usable_cores(), features, ())


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
    parts = [model, f"{cores}c", *([feature] if feature else []), *devices]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


@functools.cache
def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
