"""`labsupport` as a package alone, without the repository around it: what it does, and what it says of the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from labsupport.base.paths import AUDIO, ROOT

NAME = "speech-inference-lab"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the package as a wheel installs it: its files, and its metadata."""
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "labsupport", place / "labsupport", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "speech_inference_lab-9.9.dist-info").mkdir()
    needs = "Requires-Dist: numpy==1.26.4\nRequires-Dist: no-such-package==1.0\n"
    text = f"Metadata-Version: 2.4\nName: {NAME}\nVersion: 9.9\n{needs}"
    (place / "speech_inference_lab-9.9.dist-info" / "METADATA").write_text(text)
    return place


def call(package, *arguments):
    env = os.environ | {"PYTHONPATH": str(package), "LAB_HOME": str(package / "home"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "labsupport", *map(str, arguments)]
    return subprocess.run(command, cwd=package, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.weights
def test_it_transcribes(package):
    done = call(package, "transcribe", AUDIO / "jfk.flac", "--model", "tiny.en", "--engine", "fast")
    assert "what your country can do for you" in done.stdout
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "progress", "report", "open", "race --setup"])
def test_what_needs_the_repository_says_so(package, command):
    done = call(package, *command.split(), *(["--allow-root", "--no-browser"] if command == "open" else []))
    assert done.returncode == 1
    assert "is in the course's repository; this is its package alone" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_doctor_holds_the_packages_against_the_metadata(package):
    done = call(package, "doctor")
    assert "1 of 2 as in the package's metadata; missing: no-such-package" in " ".join(done.stdout.split())
    assert done.returncode == 1


def test_the_package_brings_its_types_and_both_names_of_its_command():
    assert (ROOT / "labsupport" / "py.typed").is_file()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("labsupport", "speech-lab"):
        assert f'{name} = "labsupport.cli:main"' in text
