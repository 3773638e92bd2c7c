"""What is here, and what each missing thing would take."""

from __future__ import annotations

import json
import time

import pytest
from stand_ins import script

from labsupport.base.errors import NotAvailable
from labsupport.base.paths import ROOT, read_toml
from labsupport.machine import doctor
from labsupport.sophon import toolchain


@pytest.mark.parametrize(("answers", "found"), [([127], None), ([127, 0], 1)])
def test_doctor_and_toolchain_find_the_same_python_310(monkeypatch, tmp_path, answers, found):
    """pyenv puts a `python3.10` on the path that runs nothing."""
    paths = [script(tmp_path / f"{i}/python3.10", f"echo 3 10; exit {code}") for i, code in enumerate(answers)]
    monkeypatch.setattr(doctor, "candidate_pythons", lambda: map(str, paths))
    monkeypatch.setattr(toolchain, "candidate_pythons", lambda: map(str, paths))
    check = doctor.check_python310()
    if found is None:
        assert (check.here, check.found) == (False, "not found")
        with pytest.raises(NotAvailable):
            toolchain.find_python310()
    else:
        assert (check.here, check.found) == (True, str(paths[found]))
        assert toolchain.find_python310() == str(paths[found])


def test_what_is_needed_and_missing_is_named_for_programs():
    checks = [doctor.Check("a", True, "x", required=True), doctor.Check("b", False, "y", "buy it", required=True)]
    checks.append(doctor.Check("c", False, "z"))
    found = json.loads(doctor.to_json(checks))
    assert (found["ok"], found["lacking"]) == (False, ["b"])
    assert found["checks"][1] == {"name": "b", "here": False, "found": "y", "remedy": "buy it", "required": True}


def test_no_check_shows_a_password():
    assert "pa55word" not in doctor.Check("hub", False, "https://me:pa55word@hub.invalid: HTTP 500").found


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
