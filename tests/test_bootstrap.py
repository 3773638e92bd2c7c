"""`lab`, the bootstrap: what is asked of it, what it finds, and the Python that it takes.

Nothing is installed here: interpreters are scripts that answer as installed ones would, and the installing steps are
replaced by small ones. The real installation is what `.ci/run` does first.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from stand_ins import plant_venv, script, stub_steps, wish_for

from labsupport.base.paths import ROOT, read_toml

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for interpreters are shell scripts")
PROJECT = read_toml(ROOT / "pyproject.toml")


# What is asked for


def test_it_is_written_for_an_old_python_and_the_standard_library_alone():
    tree = ast.parse((ROOT / "lab").read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)
    assert os.access(ROOT / "lab", os.X_OK)


def test_versions_are_those_of_pyproject(lab):
    assert {name: lab.read_pin(name) for name in PROJECT["tool"]["lab"]} == PROJECT["tool"]["lab"]
    listed = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["mindspore"]
    listed += PROJECT["dependency-groups"]["test"]
    assert all(f"{name}=={lab.read_pin(name)}" in listed for name in ("numpy", "transformers", "mindspore", "nbval"))
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert {v for v in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14") if v in allowed} == set(lab.SUITABLE)


def test_the_fingerprint_follows_what_is_installed_and_nothing_else(lab):
    pyproject, before = lab.ROOT / "pyproject.toml", lab.hash_inputs()
    text = pyproject.read_text()
    pyproject.write_text(text.replace("line-length = 120", "line-length = 99"))
    assert lab.hash_inputs() == before
    pyproject.write_text(text.replace('torch = "', 'torch = "9.'))
    assert lab.hash_inputs() != before
    pyproject.write_text(text.replace('"pytest==', '"pytest==9'))
    assert lab.hash_inputs() != before
    pyproject.write_text(text)
    (lab.ROOT / "uv.lock").write_text("version = 1")
    assert lab.hash_inputs() != before


@pytest.mark.parametrize(
    ("argv", "remembered", "mindspore", "accelerator", "rest"),
    [
        ([], {}, True, "cpu", []),
        (["run", "--fast"], {}, True, "cpu", ["run", "--fast"]),
        (["--without", "mindspore", "run"], {}, False, "cpu", ["run"]),
        (["--without=mindspore", "--accelerator=cuda", "run", "00"], {}, False, "cuda", ["run", "00"]),
        (["run", "--accelerator", "cuda"], {}, True, "cpu", ["run", "--accelerator", "cuda"]),
        (["run"], {"mindspore": False, "accelerator": "cuda"}, False, "cuda", ["run"]),
        (["--with", "mindspore", "run"], {"mindspore": False}, True, "cpu", ["run"]),
        (["--accelerator", "cpu", "run"], {"accelerator": "cuda"}, True, "cpu", ["run"]),
    ],
)
def test_options_stand_before_the_command_and_are_remembered(lab, argv, remembered, mindspore, accelerator, rest):
    wish, left = lab.split_options(argv, remembered)
    assert (wish["mindspore"], wish["accelerator"], left) == (mindspore, accelerator, rest)


@pytest.mark.parametrize(
    ("argv", "remembered", "tests"),
    [
        (["run"], {}, False),
        (["test", "--quick"], {}, True),
        (["--without", "mindspore", "test"], {}, True),
        (["run"], {"tests": True}, True),
    ],
)
def test_what_tests_need_is_wished_for_by_lab_test_and_remembered(lab, argv, remembered, tests):
    assert lab.split_options(argv, remembered)[0]["tests"] is tests


@pytest.mark.parametrize("argv", [["--without", "torch"], ["--without"], ["--accelerator", "tpu", "run"]])
def test_an_unknown_option_is_refused_by_name(lab, argv):
    with pytest.raises(lab.SetupError, match="no option") as told:
        lab.split_options(argv, {})
    assert "--accelerator cuda" in str(told.value)


# What is here


def test_a_finished_environment_is_ready(lab):
    for argv in ([], ["--without", "mindspore"], ["--accelerator", "cuda"], ["test"]):
        plant_venv(lab, wish_for(lab, *argv))
        assert lab.judge_venv(wish_for(lab, *argv)) == "ready"


@pytest.mark.parametrize("instead", [{"torch": "2.0.0"}, {"torch": None}, {"numpy": "2.3.0"}, {"mindspore": None}])
def test_a_wrong_or_missing_version_is_brought_up_to_date(lab, instead):
    plant_venv(lab, wish_for(lab), **instead)
    assert lab.judge_venv(wish_for(lab)) == "outdated"


def test_a_new_lock_or_a_wish_for_more_is_brought_up_to_date(lab):
    plant_venv(lab, wish_for(lab, "--without", "mindspore"))
    assert lab.judge_venv(wish_for(lab)) == "outdated"
    plant_venv(lab, wish_for(lab))
    assert lab.judge_venv(wish_for(lab, "test")) == "outdated"
    plant_venv(lab, wish_for(lab, "test"), nbval=None)
    assert lab.judge_venv(wish_for(lab, "test")) == "outdated"
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    assert lab.judge_venv(wish_for(lab)) == "outdated"


def test_an_environment_made_by_hand_is_adopted(lab):
    plant_venv(lab, wish_for(lab))
    lab.STAMP.unlink()
    assert lab.judge_venv(wish_for(lab)) == "outdated"


def test_an_older_stamp_that_does_not_name_its_python_is_brought_up_to_date(lab):
    plant_venv(lab, wish_for(lab))
    lab.write_stamp({name: value for name, value in lab.read_stamp().items() if name != "python"})
    assert lab.judge_venv(wish_for(lab)) == "outdated"


@pytest.mark.parametrize(
    "change",
    [{"complete": False}, {"root": "/elsewhere"}, {"accelerator": "cuda"}, {"python": "3.10"}],
    ids=["half made", "moved", "other accelerator", "python upgraded away"],
)
def test_what_cannot_be_trusted_is_made_anew(lab, change):
    plant_venv(lab, wish_for(lab))
    lab.write_stamp({**lab.read_stamp(), **change})
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_leaving_mindspore_out_makes_the_environment_anew(lab):
    plant_venv(lab, wish_for(lab))
    assert lab.judge_venv(wish_for(lab, "--without", "mindspore")) == "unusable"


def test_a_broken_interpreter_or_a_torn_stamp_is_noticed(lab):
    assert lab.judge_venv(wish_for(lab)) == "unusable"  # no .venv at all
    plant_venv(lab, wish_for(lab))
    (lab.VENV / "bin/python").unlink()
    assert lab.judge_venv(wish_for(lab)) == "unusable"
    script(lab.VENV / "bin/python", "echo no such library >&2; exit 1")
    assert lab.judge_venv(wish_for(lab)) == "unusable"
    plant_venv(lab, wish_for(lab))
    lab.STAMP.write_text('{"complete": tr')
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_a_real_interpreter_tells_its_versions(lab):
    import numpy

    seen = lab.ask(Path(sys.executable), lab.LOOK, "numpy", "no-such-package")
    assert seen == {"python": "{}.{}".format(*sys.version_info), "numpy": numpy.__version__, "no-such-package": None}
    with pytest.raises(lab.BrokenEnvironment, match="No module named 'no_such_package'"):
        lab.ask(Path(sys.executable), lab.IMPORT, "no_such_package")


# Finding a Python


def plant_pythons(lab, monkeypatch, folder: Path, **bodies: str) -> None:
    """A PATH that holds only these scripts, and no Python anywhere else."""
    for name, body in bodies.items():
        script(folder / name.replace("_", "."), body)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(folder / "pyenv"))
    monkeypatch.setattr(
        lab.sys, "_base_executable", str(script(folder / "old", "echo '[\"3.8\", true]'")), raising=False
    )


def test_the_first_suitable_python_is_taken(lab, monkeypatch, tmp_path):
    folder = tmp_path / "bin"
    plant_pythons(lab, monkeypatch, folder, python3_11="exit 127", python3_10="echo '[\"3.10\", true]'")
    assert lab.find_python() == [str(folder / "python3.10")]
    pyenv = script(folder / "pyenv/versions/3.11.7/bin/python", "echo '[\"3.11\", true]'")
    assert lab.find_python() == [str(pyenv)]


def test_lab_python_is_the_only_one_tried_when_set(lab, monkeypatch, tmp_path):
    plant_pythons(lab, monkeypatch, tmp_path / "bin", python3_11="echo '[\"3.11\", true]'")
    monkeypatch.setenv("LAB_PYTHON", str(tmp_path / "bin/old"))
    with pytest.raises(lab.NoPython, match=r"old is 3\.8"):
        lab.find_python()


def test_no_suitable_python_lists_what_was_tried_and_how_to_get_one(lab, monkeypatch, tmp_path):
    plant_pythons(
        lab, monkeypatch, tmp_path / "bin",
        python3_11="echo '[\"3.11\", true]'; exit 1", python3_10="echo '[\"3.10\", false]'",
    )  # fmt: skip
    with pytest.raises(lab.NoPython) as told:
        lab.find_python()
    text = str(told.value)
    assert "old is 3.8" in text
    assert "python3.11 lacks venv or ensurepip (Debian: apt install python3.11-venv)" in text
    assert "python3.10 is 3.10 (32-bit)" in text
    assert "LAB_PYTHON=" in text


def test_too_little_disk_says_how_much_is_needed(lab, monkeypatch):
    monkeypatch.setattr(lab.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4e9}))
    lab.check_disk(wish_for(lab, "--without", "mindspore"))
    with pytest.raises(lab.TooLittleDisk, match=r"4\.0 GB free, about 6 GB(.|\n)*--without mindspore"):
        lab.check_disk(wish_for(lab))
    with pytest.raises(lab.TooLittleDisk, match="about 12 GB"):
        lab.check_disk(wish_for(lab, "--accelerator", "cuda"))
    lab.check_disk(wish_for(lab), here=wish_for(lab))  # an update takes little
    lab.check_disk(wish_for(lab), here=wish_for(lab, "--without", "mindspore"))
    monkeypatch.setattr(lab.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2e9}))
    with pytest.raises(lab.TooLittleDisk, match="about 3 GB"):
        lab.check_disk(wish_for(lab), here=wish_for(lab, "--without", "mindspore"))


@pytest.mark.parametrize("here", [("Windows", "ARM64"), ("Linux", "ppc64le"), ("FreeBSD", "x86_64")])
def test_a_platform_without_mindspore_is_told_before_anything_is_done(lab, monkeypatch, here):
    monkeypatch.setattr(lab.platform, "system", lambda: here[0])
    monkeypatch.setattr(lab.platform, "machine", lambda: here[1])
    done = stub_steps(lab, monkeypatch)
    with pytest.raises(lab.InstallFailed, match="--without mindspore"):
        lab.set_up(wish_for(lab), thorough=False)
    assert done == []


def test_mindspore_platforms_are_those_of_the_lock(lab):
    lock = read_toml(ROOT / "uv.lock")
    (mindspore,) = [package for package in lock["package"] if package["name"] == "mindspore"]
    names = " ".join(wheel["url"] for wheel in mindspore["wheels"])
    tags = {"Linux": "manylinux1_{}", "Darwin": "macosx_1[01]_1?[05]_{}", "Windows": "win_{}"}
    import re

    for system, machines in lab.MINDSPORE_WHEELS.items():
        for machine in set(machines) - {"aarch64"}:  # its wheel is the one that is tagged `none-any`
            assert re.search(tags[system].format(machine.lower()), names), (system, machine)
