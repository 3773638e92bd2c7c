"""What `lab`, the bootstrap, would run to install, with which sources and hashes, and what it makes of a failure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from stand_ins import plant_env, script, wish_for

from labsupport.base.paths import ROOT, read_toml

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for interpreters are shell scripts")
PROJECT = read_toml(ROOT / "pyproject.toml")


def test_traps_of_uv_are_avoided(lab, monkeypatch):
    plant_env(lab, lab.NEW)
    ran = []
    monkeypatch.setattr(lab, "run", lambda command, env=None: ran.append((command, env)))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.invalid/simple")
    monkeypatch.setenv("VIRTUAL_ENV", "/some/other")
    lab.sync_packages(wish_for(lab))
    lab.install_torch(wish_for(lab))
    (sync, env), (torch, _) = ran
    assert {"--locked", "--inexact", "--extra"} <= set(sync)
    assert env["UV_PROJECT_ENVIRONMENT"] == str(lab.NEW)
    assert not {"UV_DEFAULT_INDEX", "VIRTUAL_ENV"} & set(env)
    assert "--no-config" in torch
    lab.sync_packages(wish_for(lab, "--without", "mindspore"))
    assert "--extra" not in ran[-1][0]
    lab.sync_packages(wish_for(lab, "test"))
    assert ran[-1][0][-2:] == ["--group", "test"]
    assert not any("--group" in command for command, _ in ran[:-1])


def test_certificates_that_pip_uses_reach_uv(lab, monkeypatch):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CERT", "/company.pem")
    assert lab.clean_env()["SSL_CERT_FILE"] == "/company.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    assert lab.clean_env()["SSL_CERT_FILE"] == "/mine.pem"


def test_torch_comes_from_pips_folder_then_the_cpu_index_then_the_plain_one(lab, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    links = lab.find_links(Path(sys.executable))
    assert links == ["--find-links", "/one", "--find-links", "/two"]
    assert lab.torch_sources(links, "cpu", "2.0") == [
        [*links, "torch==2.0+cpu"], ["--torch-backend", "cpu", "torch==2.0"], [*links, "torch==2.0"]
    ]  # fmt: skip
    assert lab.torch_sources([], "cpu", "2.0") == [["--torch-backend", "cpu", "torch==2.0"], ["torch==2.0"]]


def test_torch_for_cuda_asks_the_driver_where_there_is_one(lab, monkeypatch):
    monkeypatch.setattr(lab.shutil, "which", lambda name: None)
    assert lab.torch_sources([], "cuda", "2.0") == [["torch==2.0"]]
    monkeypatch.setattr(lab.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert lab.torch_sources([], "cuda", "2.0") == [["--torch-backend", "auto", "torch==2.0"], ["torch==2.0"]]


def test_a_source_that_fails_is_followed_by_the_next_but_a_full_disk_is_the_end(lab, monkeypatch, capsys):
    plant_env(lab, lab.NEW)
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
    errors = [lab.InstallFailed("no such wheel"), lab.NoNetwork("no CPU index"), None]
    ran = []

    def run(command, env=None):
        ran.append(command)
        if errors[len(ran) - 1]:
            raise errors[len(ran) - 1]

    monkeypatch.setattr(lab, "run", run)
    lab.install_torch(wish_for(lab))
    assert len(ran) == 3
    assert capsys.readouterr().err.count("trying the next source") == 2
    ran.clear()
    errors[0] = lab.TooLittleDisk("full")
    with pytest.raises(lab.TooLittleDisk):
        lab.install_torch(wish_for(lab))
    assert len(ran) == 1


# What uv 0.13 and pip 23 really say.
SAID = {
    "NoNetwork": [
        "error: Failed to fetch: https://index/simple/six/\n  cause: error sending request for url (https://index/)\n"
        "  cause: client error (Connect)\n  cause: tcp connect error\n  cause: Connection refused (os error 111)",
        "  cause: dns error\n  cause: failed to lookup address information: Name or service not known",
        "WARNING: Retrying (Retry(total=1)) after connection broken by 'ProxyError('Cannot connect to proxy.')'\n"
        "ERROR: Could not find a version that satisfies the requirement uv==0.13.8 (from versions: none)",
        "  cause: invalid peer certificate: UnknownIssuer",
    ],
    "TooLittleDisk": ["error: Failed to extract archive\n  cause: No space left on device (os error 28)"],
    "InstallFailed": [
        "error: No solution found when resolving dependencies\n  cause: Because torch==2.13.0 has no wheels with a "
        "matching platform tag (e.g., `macosx_13_0_x86_64`) and you require torch==2.13.0",
        "error: The lockfile at `uv.lock` needs to be updated, but `--locked` was provided.",
        "",
    ],
}


@pytest.mark.parametrize(("kind", "said"), [(kind, said) for kind, texts in SAID.items() for said in texts])
def test_a_failed_command_becomes_the_error_that_its_words_point_to(lab, tmp_path, kind, said):
    (tmp_path / "said").write_text(said)
    with pytest.raises(lab.SetupError) as told:
        lab.run([str(script(tmp_path / "uv", f"cat {tmp_path}/said; exit 2"))])
    assert type(told.value).__name__ == kind


def test_output_is_shown_but_for_the_long_list_of_packages(lab, tmp_path, capsys):
    lab.run([str(script(tmp_path / "uv", "echo Downloading torch; echo ' + numpy==1.26.4'; echo Installed >&2"))])
    shown = capsys.readouterr().err
    assert "Downloading torch" in shown
    assert "Installed" in shown
    assert "numpy" not in shown


def test_uv_is_installed_with_the_hashes_of_all_its_wheels(lab, monkeypatch):
    ran = []
    monkeypatch.setattr(lab, "run", ran.append)
    plant_env(lab, lab.NEW, pip="24.0", uv=None)
    lab.install_uv(wish_for(lab))
    (command,) = ran
    assert {"--require-hashes", "--no-deps"} <= set(command)
    pinned = Path(command[-1]).read_text().split()
    assert pinned[0] == f"uv=={lab.read_pin('uv')}"
    assert pinned[1:] == [f"--hash=sha256:{each}" for each in PROJECT["tool"]["lab-hashes"]["uv"]]
    assert len(set(pinned)) > 15


def test_torch_and_what_it_needs_beside_the_lock_is_installed_with_hashes(lab, monkeypatch):
    seen = []
    plant_env(lab, lab.NEW)
    monkeypatch.setattr(lab, "find_links", lambda python: [])
    monkeypatch.setattr(lab, "run", lambda command, env=None: seen.append(Path(command[-1]).read_text()))
    lab.install_torch(wish_for(lab))
    hashes = PROJECT["tool"]["lab-hashes"]
    lines = {
        line.split()[0]: [part[len("--hash=sha256:") :] for part in line.split()[1:]] for line in seen[0].split("\n")
    }
    pins = PROJECT["tool"]["lab"]
    assert lines == {
        f"torch=={pins['torch']}": hashes["torch-cpu"],
        f"networkx=={pins['networkx']}": hashes["networkx"],
        f"setuptools=={pins['setuptools']}": hashes["setuptools"],
    }
    assert all(lines.values())


CPU, AUTO, PLAIN = ["--torch-backend", "cpu", "torch==2"], ["--torch-backend", "auto", "torch==2"], ["torch==2"]


@pytest.mark.parametrize(
    ("source", "machine", "python", "name"),
    [
        (PLAIN, "x86_64", "3.10", "torch"),
        (PLAIN, "aarch64", "3.11", "torch"),
        (CPU, "x86_64", "3.11", "torch-cpu"),
        (["--find-links", "/w", "torch==2+cpu"], "x86_64", "3.11", "torch-cpu"),
        (CPU, "x86_64", "3.10", None),
        (CPU, "aarch64", "3.11", None),
        (AUTO, "x86_64", "3.11", None),
    ],
)
def test_hashes_are_given_for_the_files_that_a_source_may_send(lab, monkeypatch, source, machine, python, name):
    monkeypatch.setattr(lab.platform, "machine", lambda: machine)
    assert lab.torch_hashes(source, python) == (PROJECT["tool"]["lab-hashes"][name] if name else [])


def test_a_file_with_another_hash_is_the_end_and_no_next_source_is_tried(lab, monkeypatch):
    """What uv 0.13 says."""
    plant_env(lab, lab.NEW)
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
    said = "error: Failed to download `torch==2.13.0+cpu`\n  cause: Hash mismatch for `torch==2.13.0+cpu`"
    failing, run, calls = script(lab.ROOT / "uv", f"echo '{said}'; exit 1"), lab.run, []
    monkeypatch.setattr(lab, "run", lambda command, env=None: calls.append(command) or run([str(failing)]))
    with pytest.raises(lab.WrongHash, match="not the file that it must be"):
        lab.install_torch(wish_for(lab))
    assert len(calls) == 1
    assert not issubclass(lab.WrongHash, (lab.InstallFailed, lab.BrokenEnvironment, lab.WrongVersion))


def test_only_linux_needs_another_index_for_torch_without_cuda(lab, monkeypatch):
    monkeypatch.setattr(lab.platform, "system", lambda: "Darwin")
    assert lab.torch_sources([], "cpu", "2.0") == [["torch==2.0"]]


# The import path


def test_every_interpreter_is_kept_from_the_folder_where_it_is_called(lab, monkeypatch, tmp_path):
    mark = tmp_path / "executed"
    for name in ("json", "importlib", "ensurepip", "numpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    assert lab.ask(Path(sys.executable), lab.LOOK, "numpy")["numpy"]
    assert lab.judge_python([sys.executable]) in ("", f"is {sys.version_info[0]}.{sys.version_info[1]}")
    lab.find_links(Path(sys.executable))
    assert not mark.exists()


def test_a_python_3_10_is_started_without_the_folder_where_it_is_called(lab):
    command = lab.start_of(Path("python"), "3.10")
    assert command == ["python", "-I", str(lab.ROOT / "labsupport" / "__main__.py")]
