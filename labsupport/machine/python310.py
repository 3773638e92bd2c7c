"""A Python 3.10 on this machine, which TPU-MLIR needs: where the doctor and the toolchain look for one."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping

SECONDS = 60  # that uv, or an interpreter, may take to answer


def find_uv() -> list[str] | None:
    """The command of the lab's uv, else of one on the path."""
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-I", "-m", "uv"]
    return [found] if (found := shutil.which("uv")) else None


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's variables without those that would point Python or uv at another environment."""
    unwanted = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON", "LD_LIBRARY_PATH", "__PYVENV_LAUNCHER__")
    env = {name: value for name, value in environment.items() if name not in unwanted}
    if certificates := env.get("PIP_CERT") or env.get("REQUESTS_CA_BUNDLE"):
        env.setdefault("SSL_CERT_FILE", certificates)  # uv reads neither of the two
    return env


def candidate_pythons() -> Iterator[str]:
    """Paths that may be a Python 3.10: this one, pyenv's, uv's, the system's."""
    if sys.version_info[:2] == (3, 10):
        yield sys.executable
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    if os.path.isabs(pyenv):  # "~" stays where there is no home; a folder that may not be looked into has none
        yield from sorted(glob.glob(f"{glob.escape(pyenv)}/versions/3.10.*/bin/python3.10"))
    if uv := find_uv():
        yield from answer([*uv, "python", "find", "3.10", "--no-config", "--no-project"])
    if on_path := shutil.which("python3.10"):
        yield on_path


def is_python310(path: str) -> bool:
    """Whether it starts and is a 3.10; pyenv's `python3.10` on the path may be a shim for no version."""
    return answer([path, "-I", "-c", "import sys; print(*sys.version_info[:2])"]) == ["3 10"]


def answer(command: list[str]) -> list[str]:
    """The lines that the command prints; none where it fails, does not start or does not end in time."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=clean_environment(), timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if done.returncode else done.stdout.strip().splitlines()
