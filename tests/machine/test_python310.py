"""Where a Python 3.10 is looked for, and what is taken for one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from stand_ins import script

from labsupport.base.paths import ROOT
from labsupport.machine import python310


def test_pyenvs_uvs_and_the_paths_are_tried_in_turn(monkeypatch, tmp_path):
    of_pyenv = script(tmp_path / "versions" / "3.10.99" / "bin" / "python3.10", "echo 3 10")
    on_path = script(tmp_path / "bin" / "python3.10", "echo 3 10")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(python310, "find_uv", lambda: [str(script(tmp_path / "uv", "echo /of/uv/python3.10"))])
    own = [sys.executable] if sys.version_info[:2] == (3, 10) else []
    assert list(python310.candidate_pythons()) == [*own, str(of_pyenv), "/of/uv/python3.10", str(on_path)]


STRANGER = """
import os, sys
from labsupport.machine import python310
if os.geteuid() == 0: os.setuid(54321)  # whom no list of users names
os.environ.pop("HOME", None)
print(len(list(python310.candidate_pythons())))
os.environ["PYENV_ROOT"] = sys.argv[1]
print(len(list(python310.candidate_pythons())))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="only POSIX has these permissions")
def test_a_home_that_is_not_there_or_may_not_be_looked_into_holds_none(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "closed")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr


@pytest.mark.parametrize(
    ("body", "is_one"), [("echo 3 10", True), ("echo 3 12", False), ("exit 127", False), ("echo 3 10; exit 1", False)]
)
def test_only_what_starts_and_is_a_310_is_one(tmp_path, body, is_one):
    assert python310.is_python310(str(script(tmp_path / "python3.10", body))) == is_one
    assert not python310.is_python310("/no/such/python3.10")


def test_nothing_is_executed_that_lies_in_the_working_folder(monkeypatch, tmp_path):
    for name in ("uv", "json", "subprocess", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":")
    list(python310.candidate_pythons())
    python310.is_python310(sys.executable)
    assert not (tmp_path / "executed").exists()
