"""The race's own environment, beside the lab's: other engines' packages never come into the lab's.

It holds the dependency group `race` of pyproject.toml, as uv.lock pins it, and the lab's torch, which is not in the
lock: its files are linked, so that they take no room twice.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.errors import EngineError, NotAvailable, printable
from labsupport.base.paths import ROOT, atomic_write, read_toml, require_checkout
from labsupport.base.records import read_json
from labsupport.machine import children
from labsupport.machine.python310 import clean_environment, find_uv

FOLDER = ROOT / ".venv.race"
STAMP = "race.json"
GROUP = "race"
GIGABYTES = 3
INDEXES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL")  # another index would not match the lock
MODULES = (
    "torch", "openvino_genai", "openvino_tokenizers", "nncf", "optimum.intel", "optimum.onnxruntime",
    "pywhispercpp.model", "sherpa_onnx", "whisper",
)  # fmt: skip
QUOTED = 8  # lines of a failed step
SETUP = "./lab race --setup"


@dataclass(frozen=True)
class Environment:
    """A finished one."""

    folder: Path = FOLDER

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        scheme = "nt" if os.name == "nt" else "posix_prefix"
        return Path(sysconfig.get_path("purelib", scheme, {"base": str(self.folder), "platbase": str(self.folder)}))

    def versions(self, *packages: str) -> dict[str, str]:
        """Of these packages, as they are installed there."""
        found = {normalise(d.metadata["Name"]): d.version for d in self.distributions()}
        return {name: found[normalise(name)] for name in packages if normalise(name) in found}

    def distributions(self) -> Iterable[importlib.metadata.Distribution]:
        return importlib.metadata.distributions(path=[str(self.site_packages)])


def normalise(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def inputs() -> dict[str, str]:
    """All that decides what the environment holds; one that was made from other inputs is made anew."""
    group = read_toml(ROOT / "pyproject.toml")["dependency-groups"][GROUP]
    digest = hashlib.sha256((ROOT / "uv.lock").read_bytes() + json.dumps(group).encode()).hexdigest()
    python = "{}.{}".format(*sys.version_info[:2])
    return {"lock": digest, "torch": importlib.metadata.version("torch"), "python": python}


def find_environment() -> Environment | None:
    """The finished environment of the present pins; None where there is none."""
    found = Environment(FOLDER)
    try:
        return found if found.python.exists() and read_json(found.folder / STAMP) == inputs() else None
    except (OSError, ValueError):  # none, or a half-written one of another version of the lab
        return None


def require_environment() -> Environment:
    """Raises NotAvailable where there is none, or one for other pins."""
    if found := find_environment():
        return found
    what = "The race's environment was made for other pins." if FOLDER.exists() else "The race has no environment yet."
    raise NotAvailable(what, where=FOLDER, hint=f"{SETUP} makes it: {GIGABYTES} GB at most, some minutes.")


def make_environment(say: Callable[[str], None] = lambda text: None) -> Environment:
    """The environment, made now if it is not there: under another name, and renamed when all of it works.

    Raises:
        NotAvailable: uv or torch is missing, or there is too little disk.
        EngineError: a step failed.
    """
    require_checkout("What the other engines need")
    from filelock import FileLock

    with FileLock(FOLDER.with_name(f"{FOLDER.name}.lock")):
        if found := find_environment():
            return found
        check_disk()
        part = Environment(FOLDER.with_name(f"{FOLDER.name}.new"))
        remove(part.folder)  # of a call that was killed
        try:
            install(part, say)
            remove(FOLDER)
            part.folder.rename(FOLDER)
        finally:
            remove(part.folder)
    return Environment(FOLDER)


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < GIGABYTES * 1e9:
        raise NotAvailable(f"Only {free / 1e9:.1f} GB free; the race needs {GIGABYTES}.", where=ROOT)


def install(made: Environment, say: Callable[[str], None]) -> None:
    """The steps; the stamp is written last."""
    uv, python = find_uv(), str(made.python)
    if uv is None:
        raise NotAvailable("uv, the installer, was not found.", hint="Run `./lab setup`.")
    say(f"[1/4] The packages of the group `{GROUP}`, as uv.lock pins them")
    run_step([*uv, "venv", "--relocatable", "--python", sys.executable, str(made.folder)])
    run_step(
        [*uv, "sync", "--locked", "--only-group", GROUP, "--python", python], UV_PROJECT_ENVIRONMENT=str(made.folder)
    )
    say("[2/4] torch, from the lab's own environment")
    link_package("torch", made)
    say("[3/4] Checking what the packages need of each other")
    run_step([*uv, "pip", "check", "--no-config", "--python", python])
    say("[4/4] Importing each of them")
    run_step([python, "-I", "-c", f"import {', '.join(MODULES)}"])
    with atomic_write(made.folder / STAMP) as part:
        part.write_text(json.dumps(inputs()), encoding="utf-8")


def run_step(command: Sequence[str], **variables: str) -> None:
    """Runs one command in the repository's folder; EngineError, with the end of what it printed, where it fails."""
    env = {name: value for name, value in clean_environment().items() if name not in INDEXES} | variables
    done = subprocess.run(
        children.guarded(command), cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [printable(line) for line in done.stdout.splitlines() if line.strip()][-QUOTED:]
        what = "\n  | ".join(["The race's environment could not be made.", *lines])
        raise EngineError(
            what, where=" ".join(command), hint="Nothing of it is left; what was fetched is in uv's cache."
        )


# --- torch ------------------------------------------------------------------------------------------------------------


def link_package(name: str, made: Environment) -> None:
    """Gives the new environment a package of this one, and all that it needs and the new one lacks."""
    present = {normalise(found.metadata["Name"]) for found in made.distributions()}
    pending = [name]
    while pending:
        if (name := normalise(pending.pop())) not in present:
            present.add(name)
            found = find_distribution(name)
            link_files(found, made.site_packages)
            pending += needs(found)


def find_distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise NotAvailable(f"The lab's environment has no {name}.", hint="Run `./lab setup`.") from error


def needs(package: importlib.metadata.Distribution) -> list[str]:
    """Names of what an installed package needs here, without its extras."""
    from packaging.requirements import Requirement

    found = map(Requirement, package.requires or ())
    return [each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def link_files(package: importlib.metadata.Distribution, site_packages: Path) -> None:
    """Hard links where the file system has them, else copies; its commands, which lie elsewhere, are left out."""
    for file in package.files or ():
        source, target = Path(str(package.locate_file(file))), site_packages / file
        if ".." in file.parts or not source.is_file():  # compiled code may have been removed
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
