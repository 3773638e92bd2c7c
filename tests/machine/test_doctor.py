"""What is here, and what each missing thing would take."""

from __future__ import annotations

import sys
import time

import pytest

from labsupport.base.paths import ROOT, read_toml
from labsupport.machine import doctor


def test_doctor_does_not_take_a_shim_that_runs_nothing_for_a_python(monkeypatch, tmp_path):
    shim = tmp_path / "python3.10"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setattr(doctor, "_python310_candidates", lambda: [str(shim)])
    assert not doctor.check_python310().here
    monkeypatch.setattr(doctor, "_python310_candidates", lambda: [str(shim), sys.executable])
    assert doctor.check_python310().here


def test_doctor_asks_the_hub_only_when_told_and_not_for_long(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    started = time.monotonic()
    assert "ConnectionError" in doctor.check_hub(seconds=2).found
    assert time.monotonic() - started < 10
    assert "model hub" not in [check.name for check in doctor.examine(online=False)]


def test_every_need_of_a_notebook_is_here_or_has_a_reason(monkeypatch):
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    for need in doctor.NEEDS:
        reason = doctor.missing(need)
        assert reason is None or (reason.startswith("needs ") and "here: " in reason)
    assert doctor.missing("torch") is None
    assert "NVIDIA" in doctor.missing("cuda")


@pytest.mark.parametrize(
    ("installed", "here", "found"),
    [(None, False, "not installed"), ("2.1.0+cpu", True, "the lab is tested with"), ("pinned", True, "2.")],
)
def test_a_framework_is_absent_or_another_version_or_the_pinned_one(monkeypatch, installed, here, found):
    pinned = read_toml(ROOT / "pyproject.toml")["tool"]["lab"]["torch"]
    version = pinned if installed == "pinned" else installed
    monkeypatch.setattr(doctor, "installed_version", lambda package: version)
    check = doctor.check_torch()
    assert (check.here, check.required) == (here, True)
    assert found in check.found
    assert ("tested with" in check.found) == (installed == "2.1.0+cpu")


@pytest.mark.parametrize("installed", [True, False])
def test_the_pins_of_the_test_group_count_where_it_is_installed(monkeypatch, installed):
    locked = doctor.locked_versions()
    group = {"nbval": "0.0.1" if installed else None, "ruff": None, "mypy": None, "py-rattler": None}
    monkeypatch.setattr(doctor, "installed_version", lambda package: group.get(package, locked.get(package)))
    check = doctor.check_pins()
    assert check.here
    assert ("nbval 0.0.1" in check.found) == installed
