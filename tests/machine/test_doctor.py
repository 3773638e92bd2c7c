"""What is here, and what each missing thing would take."""

from __future__ import annotations

import errno
import json
import os
import sys
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


def forbid(path):
    path.chmod(0)
    return path / "in"


def circle(path):
    (path / "a").symlink_to(path / "b")
    (path / "b").symlink_to(path / "a")
    return path / "a"


def take(path):
    (path / "taken").write_text("a file")
    return path / "taken"


FOLDERS = {
    "forbidden": forbid,
    "a circle of links": circle,
    "a file": take,
    "below a file": lambda path: take(path) / "in",
    "a name too long": lambda path: path / ("x" * 300),
    "a path too long": lambda path: path / "/".join(["x" * 200] * 30),
    "no such user": lambda path: "~nobody-of-this-name/lab",
}


@pytest.mark.parametrize("variable", ["LAB_HOME", "LAB_CACHE"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_cannot_be_used_is_a_failed_check_for_anybody(tmp_path, monkeypatch, kind, variable):
    monkeypatch.setenv(variable, str(FOLDERS[kind](tmp_path)))
    if kind == "forbidden":  # the tests may run as root, whom nobody forbids anything
        refuse_below(monkeypatch, tmp_path)
    name = {"LAB_HOME": "your results", "LAB_CACHE": "cache"}[variable]
    checks = {
        check.name: check for check in (doctor.check_disk(), doctor.check_cache(), doctor.check_progress_folder())
    }
    assert not checks[name].here
    assert variable in checks[name].remedy
    assert "\n" not in checks[name].found
    assert doctor.find_lacking([checks[name]]) == [name]


def refuse_below(monkeypatch, folder):
    stat = os.stat

    def refuse(path, *arguments, **options):
        if str(path).startswith(f"{folder}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)


def test_a_full_disk_is_a_failed_check(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    assert doctor.check_progress_folder().here
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: 4096)
    assert (doctor.check_progress_folder().here, doctor.check_disk().here) == (False, False)
    assert "its disk is full" in doctor.check_progress_folder().found


@pytest.mark.parametrize("code", ["import sys; sys.exit('libcudart.so: cannot open')", "import os; os._exit(3)", "1"])
def test_a_framework_that_does_not_start_is_a_check_and_no_traceback(monkeypatch, code):
    monkeypatch.setattr(doctor.children, "python_code", lambda *_: [sys.executable, "-c", code])
    doctor.accelerators.cache_clear()
    check = doctor.check_cuda()
    assert not check.here
    assert check.found.startswith("torch cannot be asked: ")
    assert ("libcudart" in check.found) == ("libcudart" in code)


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
