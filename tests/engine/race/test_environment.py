"""How the race's environment is made: whole or not at all, with the lab's torch, apart from the lab's own packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from labsupport.base.errors import EngineError, NotAvailable
from labsupport.base.paths import ROOT, read_toml
from labsupport.engine.race import environment
from labsupport.engine.race.environment import Environment

UV = """
import os, pathlib, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*arguments, "|", os.environ.get("UV_PROJECT_ENVIRONMENT", ""), os.environ.get("UV_INDEX", ""), file=log)
if arguments[0] == {fails!r}:
    print("planted: no such package")
    sys.exit(2)
if arguments[0] == "venv":
    interpreter = pathlib.Path(arguments[-1]) / "bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text("#!/bin/sh\\nexit {imports}\\n")
    interpreter.chmod(0o755)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    place = tmp_path / ".venv.race"
    monkeypatch.setattr(environment, "FOLDER", place)
    monkeypatch.setattr(environment, "link_package", lambda name, made: made.site_packages.mkdir(parents=True))
    return place


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """Plants an installer that fails at a step, if so; gives the lines of what it was asked for."""
    log = tmp_path / "uv.log"

    def plant(fails: str = "", imports: int = 0) -> Path:
        script = tmp_path / "uv.py"
        script.write_text(UV.format(log=str(log), fails=fails, imports=imports))
        monkeypatch.setattr(environment, "find_uv", lambda: [sys.executable, str(script)])
        return log

    return plant


def test_it_is_made_from_the_lock_once(folder, uv, monkeypatch):
    monkeypatch.setenv("UV_INDEX", "https://elsewhere.example")
    log, said = uv(), []
    assert environment.find_environment() is None
    made = environment.make_environment(said.append)
    assert made == environment.find_environment() == environment.require_environment() == Environment(folder)
    venv, sync, check = log.read_text().splitlines()
    assert venv.startswith(f"venv --relocatable --python {sys.executable} {folder}.new")
    assert sync.startswith("sync --locked --only-group race --python")
    assert sync.endswith(f"| {folder}.new ")  # and no other index
    assert check.startswith("pip check")
    assert len(said) == 4
    environment.make_environment(said.append)
    assert len(said) == 4
    assert sorted(path.name for path in folder.parent.glob(".venv*")) == [".venv.race", ".venv.race.lock"]


@pytest.mark.parametrize(("fails", "imports"), [("venv", 0), ("sync", 0), ("pip", 0), ("", 3)])
def test_a_step_that_fails_leaves_nothing_and_the_next_call_makes_it(folder, uv, fails, imports):
    uv(fails, imports)
    with pytest.raises(EngineError, match="could not be made") as error:
        environment.make_environment()
    if fails:
        assert "planted: no such package" in error.value.what
    assert [path.name for path in folder.parent.glob(".venv*")] == [".venv.race.lock"]
    uv()
    assert environment.make_environment().folder == folder


def test_a_failure_leaves_the_old_one_and_a_killed_calls_rest_is_removed(folder, uv):
    uv()
    environment.make_environment()
    (folder / environment.STAMP).write_text(json.dumps({"lock": "another"}))
    with pytest.raises(NotAvailable, match="other pins") as error:
        environment.require_environment()
    assert "./lab race --setup" in error.value.hint
    rest = folder.with_name(".venv.race.new")
    rest.mkdir()
    (rest / "half").write_text("")
    uv("sync")
    with pytest.raises(EngineError):
        environment.make_environment()
    assert folder.exists()
    assert not rest.exists()
    uv()
    environment.make_environment()
    assert environment.find_environment()


@pytest.mark.parametrize("stamp", ["", "[]", "{", '{"lock": 1}'])
def test_a_stamp_that_says_nothing_of_ours_is_no_environment(folder, uv, stamp):
    uv()
    environment.make_environment()
    (folder / environment.STAMP).write_text(stamp)
    assert environment.find_environment() is None


def test_without_an_installer_or_room_it_says_so(folder, monkeypatch):
    with pytest.raises(NotAvailable, match="no environment yet"):
        environment.require_environment()
    monkeypatch.setattr(environment, "find_uv", lambda: None)
    with pytest.raises(NotAvailable, match="uv"):
        environment.make_environment()
    monkeypatch.setattr(environment, "GIGABYTES", 10**9)
    with pytest.raises(NotAvailable, match="GB free"):
        environment.make_environment()


# --- the lab's torch --------------------------------------------------------------------------------------------------


def plant_package(site: Path, name: str, needs: tuple[str, ...] = ()) -> None:
    info = site / f"{name}-1.0.dist-info"
    (site / name).mkdir(parents=True)
    info.mkdir()
    (site / name / "__init__.py").write_text("planted = 1")
    lines = [f"Requires-Dist: {need}" for need in needs]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines]))
    files = [f"{name}/__init__.py", f"{info.name}/METADATA", f"{name}/gone.pyc", f"../../bin/{name}"]
    (info / "RECORD").write_text("\n".join(f"{file},," for file in files))


def test_a_package_is_linked_with_all_that_the_new_environment_lacks(tmp_path, monkeypatch):
    here, made = tmp_path / "here", Environment(tmp_path / "made")
    plant_package(here, "engine", ("wheel_x>=1", "present", "absent; sys_platform == 'none'", "extra; extra == 'more'"))
    plant_package(here, "wheel_x", ("engine",))
    plant_package(here, "present")
    plant_package(made.site_packages, "present")
    (made.site_packages / "present/__init__.py").write_text("its own")
    monkeypatch.syspath_prepend(str(here))
    environment.link_package("engine", made)
    assert made.versions("engine", "Wheel_X", "present", "absent") == {
        "engine": "1.0", "Wheel_X": "1.0", "present": "1.0",
    }  # fmt: skip
    linked = made.site_packages / "engine/__init__.py"
    assert os.path.samefile(linked, here / "engine/__init__.py")
    assert (made.site_packages / "present/__init__.py").read_text() == "its own"
    assert not (tmp_path / "bin").exists()


def test_where_links_cannot_be_made_files_are_copied(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("planted: another file system")

    here, made = tmp_path / "here", Environment(tmp_path / "made")
    plant_package(here, "engine")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(os, "link", refuse)
    environment.link_package("engine", made)
    assert (made.site_packages / "engine/__init__.py").read_text() == "planted = 1"
    with pytest.raises(NotAvailable, match="no no-such-package"):
        environment.link_package("no_such_package", made)


# --- the pins ---------------------------------------------------------------------------------------------------------


def test_the_group_is_pinned_and_the_real_one_holds_it(race_environment):
    group = read_toml(ROOT / "pyproject.toml")["dependency-groups"]["race"]
    pins = {need.split("[")[0].split("==")[0]: need.split("==")[1] for need in group}
    assert race_environment.versions(*pins) == pins
    assert race_environment.versions("torch")["torch"] == importlib.metadata.version("torch")


def test_the_labs_own_environment_has_none_of_the_peers_engines():
    locked = {p["name"]: p for p in read_toml(ROOT / "uv.lock")["package"]}["speech-inference-lab"]
    runtime = {need["name"] for need in locked["dependencies"]}
    race = {need["name"] for need in locked["dev-dependencies"]["race"]}
    assert {"openvino-genai", "sherpa-onnx", "pywhispercpp", "openai-whisper", "optimum"} <= race - runtime
