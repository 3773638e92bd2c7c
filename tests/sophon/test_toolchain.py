"""The environment that holds TPU-MLIR's tools; small scripts play the installer and the tools."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stand_ins import script
from typer.testing import CliRunner

from labsupport import cli
from labsupport.base.errors import NotAvailable, SophonError
from labsupport.sophon import toolchain
from labsupport.sophon.toolchain import find_python310, find_toolchain, make_toolchain

# A stand-in for uv: "venv" makes a folder with an interpreter, "pip install" puts there what the wheel would bring.
UV = r"""
echo "$@" >> "$CALLS"
case "$1" in
venv) mkdir -p "$4/bin"; ln -s "$(command -v sh)" "$4/bin/python" ;;
pip)
  [ -z "$BREAK" ] || { echo 'error: dns error'; exit 2; }
  package="${4%/bin/python}/lib/python3.10/site-packages/tpu_mlir"
  mkdir -p "$package/lib/third_party" "$package/python/transform"
  for name in libc.so.6 libm.so.6 libpthread.so.0 libz.so.1; do touch "$package/lib/third_party/$name"; done
  printf 'import torch\nx = [torch.tensor(inputs[name]).numpy() for name in names]\n' \
    > "$package/python/transform/OnnxOpt.py"
  for tool in model_transform model_deploy; do
    printf '#!/bin/sh\ntouch check.mlir\n%s\n' "${TOOL:-touch check.bmodel}" > "${4%/bin/python}/bin/$tool"
    chmod +x "${4%/bin/python}/bin/$tool"
  done ;;
esac
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A cache of its own, a uv that is a shell script, a Python 3.10 that is found. Gives the list of uv's calls."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    uv = script(tmp_path / "uv", UV)
    monkeypatch.setattr(toolchain, "find_uv", lambda: [str(uv)])
    monkeypatch.setattr(toolchain, "find_python310", lambda: "/usr/bin/python3.10")
    monkeypatch.setattr(toolchain, "check_platform", lambda: None)
    return lambda: calls.read_text().splitlines()


def test_the_toolchain_is_made_pinned_and_only_once(fake):
    assert find_toolchain() is None
    made = make_toolchain()
    assert make_toolchain() == made == find_toolchain()
    _venv, install = fake()
    assert "tpu_mlir==1.30.2" in install
    assert all("==" in word for word in install.split() if word[0] not in "-/:" and word not in ("pip", "install"))
    assert "--no-deps" in install


def test_the_wheel_is_made_to_run_here(fake):
    package = make_toolchain().package
    source = (package / "python" / "transform" / "OnnxOpt.py").read_text()
    assert source == "x = [np.array(inputs[name]) for name in names]\n"
    libraries = package / "lib" / "third_party"
    assert sorted(path.name for path in libraries.iterdir()) == ["libz.so.1", "set_aside"]
    assert len(list((libraries / "set_aside").iterdir())) == 3


def test_a_half_made_environment_is_never_called_finished_and_is_made_anew(fake, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    with pytest.raises(NotAvailable, match="dns error"):
        make_toolchain()
    folder = toolchain.toolchain_folder()
    (folder / "leftover").touch()
    assert find_toolchain() is None
    monkeypatch.delenv("BREAK")
    make_toolchain()
    assert not (folder / "leftover").exists()


def test_an_environment_whose_interpreter_went_away_is_made_anew(fake):
    made = make_toolchain()
    made.python.unlink()
    assert find_toolchain() is None
    assert make_toolchain().python.exists()


@pytest.mark.parametrize(
    ("tool", "message"), [("echo oh; exit 139", r"exit code 139(.|\n)*\| oh"), ("true", "no program")]
)
def test_a_tool_that_does_not_work_is_a_broken_toolchain_not_a_finished_one(fake, monkeypatch, tool, message):
    monkeypatch.setenv("TOOL", tool)
    with pytest.raises(SophonError, match=message):
        make_toolchain()
    assert find_toolchain() is None


@pytest.mark.parametrize("planted", ["", "import torch\nimport torch\n", "import torch\ntorch.tensor(x)\n"])
def test_another_source_than_the_known_one_is_not_patched(tmp_path, planted):
    source = tmp_path / "OnnxOpt.py"
    source.write_text(planted)
    with pytest.raises(SophonError, match="does not use torch where"):
        toolchain.drop_torch(source)
    assert source.read_text() == planted


def test_the_installers_cache_keeps_its_own_copy(tmp_path):
    """uv hard-links packages out of its cache: what is written in place there would be in the next environment too."""
    source = tmp_path / "OnnxOpt.py"
    source.write_text("import torch\nx = torch.tensor(inputs[name]).numpy()\n")
    cached = tmp_path / "cached.py"
    os.link(source, cached)
    toolchain.drop_torch(source)
    assert "import torch" in cached.read_text()
    assert "torch" not in source.read_text()


def test_other_pins_are_another_environment(monkeypatch):
    before = toolchain.toolchain_folder()
    pins = toolchain.read_pins()
    monkeypatch.setattr(toolchain, "read_pins", lambda: {**pins, "packages": [*pins["packages"], "x==1"]})
    assert toolchain.toolchain_folder() != before


def test_every_pin_is_exact():
    pins = toolchain.read_pins()
    assert pins["tpu_mlir"] == "1.30.2"
    assert all(pin.count("==") == 1 and not set(pin) & set("<>*~") for pin in pins["packages"])


def test_without_python_310_the_error_says_what_to_do(monkeypatch, tmp_path):
    shim = script(tmp_path / "python3.10", "exit 127")
    monkeypatch.setattr(toolchain, "candidate_pythons", lambda: iter([str(shim), "/no/such/python3.10"]))
    with pytest.raises(NotAvailable, match=r"uv python install 3\.10") as caught:
        find_python310()
    assert str(shim) in str(caught.value)


def test_a_python_of_another_version_is_passed_over(monkeypatch, tmp_path):
    other = script(tmp_path / "other", "echo 3 12")
    right = script(tmp_path / "right", "echo 3 10")
    monkeypatch.setattr(toolchain, "candidate_pythons", lambda: iter([str(other), str(right)]))
    assert find_python310() == str(right)


def test_too_little_disk_is_said_before_anything_is_removed(fake, monkeypatch):
    folder = toolchain.toolchain_folder()
    folder.mkdir(parents=True)
    monkeypatch.setattr(toolchain.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2e9}))
    with pytest.raises(NotAvailable, match=r"2\.0 GB free; TPU-MLIR needs 2\.5"):
        make_toolchain()
    assert folder.exists()
    assert fake() == []


def test_without_uv_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(toolchain, "find_uv", lambda: None)
    with pytest.raises(NotAvailable, match=r"lab setup"):
        toolchain.require_uv()


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_other_platforms_are_refused_at_once(monkeypatch, system, machine):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(NotAvailable, match=machine):
        make_toolchain()


def test_the_tools_see_their_own_python_first_and_none_of_ours(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    env = toolchain.Toolchain(Path("/env"), "1").environment()
    assert env["PATH"].split(os.pathsep)[0] == "/env/bin"
    assert env["LD_LIBRARY_PATH"].endswith("tpu_mlir/lib/third_party")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(env)


def test_the_command_makes_it_and_says_where(fake):
    done = CliRunner().invoke(cli.app, ["sophon"])
    assert done.exit_code == 0
    assert "TPU-MLIR 1.30.2 is ready" in done.output.replace("\n", " ")
