"""Scripts that play interpreters and tools, and the bootstrap over a copy of this repository."""

from __future__ import annotations

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from labsupport.base.paths import ROOT


def load_lab(folder: Path):
    loader = SourceFileLoader("lab_under_test", str(folder / "lab"))
    module = module_from_spec(spec_from_loader("lab_under_test", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The bootstrap as a module, over a copy of the repository's settings where nothing is installed."""
    for name in ("lab", "pyproject.toml", "uv.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "lab").chmod(0o755)
    for name in ("LAB_ENV", "LAB_PYTHON", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = load_lab(tmp_path)
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    return module


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def wish_for(lab, *argv: str) -> dict:
    return lab.split_options(list(argv), {})[0]


def plant_env(lab, env: Path, wish: dict | None = None, **instead: str | None) -> Path:
    """An interpreter that says it has the expected versions, or those given `instead`, and echoes what it is to run."""
    absent = dict.fromkeys(("mindspore", "nbval"))
    versions = {**absent, **lab.expected_versions(wish or {"mindspore": True, "tests": True}), **instead}
    answer = json.dumps({"python": versions.pop("python", "3.11"), **versions})
    return script(env / "bin/python", f'if [ "$1" = -m ]; then echo "$PYTHONPATH|$*"; exit 7; fi; echo \'{answer}\'')


def plant_venv(lab, wish: dict, **instead: str | None) -> None:
    plant_env(lab, lab.VENV, wish, **instead)
    lab.write_stamp({**wish, "complete": True, "python": "3.11"})


def stub_steps(lab, monkeypatch, **steps) -> list[str]:
    """Replaces the installing steps by ones that only note their names; returns the notes."""
    done = []

    def note(name):
        return lambda wish: (done.append(name), steps.get(name, lambda wish: None)(wish))

    names = ("make_venv", "install_uv", "sync_packages", "install_torch", "check_environment", "put_in_place")
    monkeypatch.setattr(lab, "STEPS", [(name, note(name)) for name in names])
    return done
