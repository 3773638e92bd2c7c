"""What the operating system reports of this machine: its processor, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def read_cpu() -> tuple[str, set[str]]:
    """The CPU's model, and its feature flags in lower case as the system spells them (empty where it lists none)."""
    if platform.system() == "Linux":
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    if platform.system() == "Darwin":
        listing = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=True, timeout=10).stdout
        return parse_sysctl(listing)
    return platform.processor() or platform.machine(), set()


def parse_cpuinfo(text: str) -> tuple[str, set[str]]:
    fields = {key.strip().lower(): value.strip() for key, _, value in (ln.partition(":") for ln in text.splitlines())}
    flags = fields.get("flags") or fields.get("features") or ""  # Arm calls them features, and names no model
    return fields.get("model name") or platform.processor() or platform.machine(), set(flags.lower().split())


def parse_sysctl(text: str) -> tuple[str, set[str]]:
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    arm = {key.rsplit(".", 1)[1] for key, on in fields.items() if key.startswith("hw.optional.") and on == "1"}
    x86 = f"{fields.get('machdep.cpu.features', '')} {fields.get('machdep.cpu.leaf7_features', '')}".split()
    return fields.get("machdep.cpu.brand_string", platform.machine()), {flag.lower() for flag in arm.union(x86)}


def usable_cores() -> int:
    """Logical cores that this process may use: its affinity, cut by the control group's CPU quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    old = zip(read_cgroup("cpu.cfs_quota_us", "cpu"), read_cgroup("cpu.cfs_period_us", "cpu"), strict=True)
    limits = [*read_cgroup("cpu.max"), *([*quota, *period] for quota, period in old)]
    whole = [math.ceil(int(quota) / int(period)) for quota, period in limits if quota not in ("max", "-1")]
    return min([affinity, *whole])


def count_physical_cores(usable: int) -> int:
    import psutil

    return min(psutil.cpu_count(logical=False) or usable, usable)


def asked_threads() -> int | None:
    """How many threads `OMP_NUM_THREADS` asks for; None where it is not set, or lists numbers for nested loops."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else None


def usable_memory() -> int:
    """Bytes of memory that this process may fill: the machine's, cut by the control group's limit."""
    import psutil

    limits = [*read_cgroup("memory.max"), *read_cgroup("memory.limit_in_bytes", "memory")]
    return min([psutil.virtual_memory().total, *(int(limit) for (limit,) in limits if limit != "max")])


def read_cgroup(
    limit: str, controller: str = "", root: Path = CGROUPS, membership: Path = OWN_CGROUPS
) -> list[list[str]]:
    """The fields of the file `limit` in this process's control group and in each group above it, where it exists.

    Args:
        controller: empty for the unified hierarchy (v2), else the name of the old one ("cpu", "memory").
        root, membership: where the hierarchies are mounted; the file that lists the groups of the process.
    """
    lines = membership.read_text().splitlines() if membership.exists() else []
    groups = (line.split(":", 2) for line in lines)
    path = next((path for _, names, path in groups if controller in names.split(",")), "/")
    base = root / controller
    folder = base / path.lstrip("/")
    chain = [folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)]
    return [(place / limit).read_text().split() for place in chain if (place / limit).is_file()]


def name_system() -> str:
    """The operating system and the architecture; no kernel build, which can name its owner."""
    if platform.system() == "Linux":
        try:
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']} {platform.machine()}"
        except OSError:  # a minimal container has no such file
            return f"Linux {platform.machine()}"
    return f"{platform.system()} {platform.release()} {platform.machine()}"
