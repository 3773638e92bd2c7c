"""`lab`, the bootstrap: what it decides, what it would run, and what it says when something is wrong.

Nothing is installed here: interpreters are scripts that answer as installed ones would, and the installing steps are
replaced by small ones. The real installation is what `.ci/run` does first.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from stand_ins import plant_env, plant_venv, script, stub_steps, wish_for

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


# What is run


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


# The steps together


def beside(lab, **instead: str | None) -> dict:
    """A new environment that only waits to be put in place; gives its wish."""
    plant_env(lab, lab.NEW, **instead)
    return wish_for(lab)


def test_versions_after_the_installation_are_asserted(lab):
    beside(lab, torch="2.13.1")
    with pytest.raises(lab.WrongVersion, match=r"torch is 2\.13\.1, not"):
        lab.check_environment(wish_for(lab))


def test_torch_and_mindspore_are_imported_in_processes_of_their_own(lab, monkeypatch):
    asked, ran = [], []

    def ask(python, code, *names):
        asked.append(names)
        return {"python": "3.11", **lab.expected_versions(wish_for(lab))}

    beside(lab)
    monkeypatch.setattr(lab, "ask", ask)
    monkeypatch.setattr(lab, "run", ran.append)
    lab.check_environment(wish_for(lab))
    assert ran[0][-5:-3] == ["pip", "check"]
    imports = asked[1:]
    assert any("torch" in names for names in imports)
    assert any("mindspore" in names for names in imports)
    assert not any({"torch", "mindspore"} <= set(names) for names in imports)


def test_cuda_that_came_as_cpu_is_refused(lab, monkeypatch):
    wish = wish_for(lab, "--accelerator", "cuda")
    plant_env(lab, lab.NEW, wish)
    expected = lab.expected_versions(wish)
    monkeypatch.setattr(lab, "run", lambda command: None)
    monkeypatch.setattr(lab, "ask", lambda python, code, *names: None if code == lab.CUDA else expected)
    with pytest.raises(lab.WrongVersion, match="without CUDA"):
        lab.check_environment(wish)


def test_an_environment_that_cannot_be_brought_up_to_date_is_made_anew_once(lab, monkeypatch):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    failures = [lab.BrokenEnvironment("torch does not import")]

    def check(wish):
        if failures:
            raise failures.pop()

    done = stub_steps(lab, monkeypatch, check_environment=check)
    lab.set_up(wish_for(lab), thorough=False)
    assert done.count("make_venv") == 2


def test_a_new_environment_that_does_not_work_is_an_error_not_a_loop(lab, monkeypatch):
    def check(wish):
        raise lab.BrokenEnvironment("torch does not import")

    done = stub_steps(lab, monkeypatch, check_environment=check)
    with pytest.raises(lab.BrokenEnvironment):
        lab.set_up(wish_for(lab), thorough=False)
    assert done.count("make_venv") == 1
    assert not lab.VENV.exists()


FAILURES = ("NoPython", "NoNetwork", "TooLittleDisk", "BrokenEnvironment", "WrongVersion", "InstallFailed", "OSError")


@pytest.mark.parametrize(
    "stamp", ["", "[]", "5", "null", "{", "[" * 100_000, '{"mindspore": "yes"}', '{"accelerator": 1}']
)
def test_a_stamp_that_cannot_be_read_means_that_nothing_is_complete(lab, stamp):
    plant_env(lab, lab.VENV)
    lab.STAMP.write_text(stamp)
    assert lab.read_stamp() == {"complete": False}
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_a_stamp_that_is_a_folder_means_the_same(lab):
    plant_env(lab, lab.VENV)
    lab.STAMP.mkdir()
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_an_interpreter_that_does_not_answer_in_utf_8_is_a_broken_one(lab):
    with pytest.raises(lab.BrokenEnvironment):
        lab.ask(script(lab.ROOT / "python", r"printf '\377\376'; exit 1"), lab.LOOK)


def be_a_file(path, elsewhere):
    path.write_text("no folder")


def be_a_link(path, elsewhere):
    (elsewhere / "bin").mkdir(parents=True)
    path.symlink_to(elsewhere)


def be_a_dangling_link(path, elsewhere):
    path.symlink_to(elsewhere / "nowhere")


def be_a_circle(path, elsewhere):
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["VENV", "OLD"])
@pytest.mark.parametrize("kind", [be_a_file, be_a_link, be_a_dangling_link, be_a_circle])
def test_what_is_no_folder_makes_way_and_what_a_link_points_at_stays(lab, tmp_path, kind, name):
    wish, elsewhere = beside(lab), tmp_path / "elsewhere"
    kind(getattr(lab, name), elsewhere)
    lab.put_in_place(wish)
    assert lab.judge_venv(wish) == "ready"
    assert not any(os.path.lexists(path) for path in (lab.OLD, lab.NEW))
    assert elsewhere.exists() == (kind is be_a_link)


@pytest.mark.parametrize("kind", [be_a_file, be_a_dangling_link, be_a_circle])
def test_what_has_the_new_environments_name_makes_way(lab, tmp_path, kind):
    kind(lab.NEW, tmp_path / "elsewhere")
    lab.remove(lab.NEW)
    assert not os.path.lexists(lab.NEW)


STEPS = ("make_venv", "install_uv", "sync_packages", "install_torch", "check_environment", "put_in_place")


@pytest.mark.parametrize("kind", [*FAILURES, "KeyboardInterrupt"])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_wherever_the_old_environment_works_as_before(lab, monkeypatch, capsys, kind, step):
    """A wish for more than there is: whatever way its set-up goes wrong, what was asked for before is still ready."""
    plant_venv(lab, wish_for(lab))
    before = {path: path.read_bytes() for path in lab.VENV.rglob("*") if path.is_file()}

    def fail(wish):
        raise getattr(lab, kind, getattr(builtins, kind, None))("planted")

    stub_steps(lab, monkeypatch, **{"make_venv": lab.make_venv, step: fail})
    monkeypatch.setattr(lab, "find_python", lambda: [sys.executable])
    monkeypatch.setattr(lab, "run", lambda command: None)
    assert lab.main(["test"]) == (130 if kind == "KeyboardInterrupt" else 1)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert lab.judge_venv(wish_for(lab)) == "ready"
    assert {path: path.read_bytes() for path in lab.VENV.rglob("*") if path.is_file()} == before
    assert (".venv is as it was." in told) == (kind == "KeyboardInterrupt")


@pytest.mark.parametrize("missing", ["find_python", "check_disk"])
def test_python_and_disk_are_looked_at_before_anything_is_removed(lab, monkeypatch, missing):
    plant_venv(lab, {**wish_for(lab), "root": "/elsewhere"})

    def refuse(*arguments, **options):
        raise lab.SetupError(missing)

    monkeypatch.setattr(lab, "find_python", lambda: [sys.executable])
    monkeypatch.setattr(lab, missing, refuse)
    with pytest.raises(lab.SetupError, match=missing):
        lab.make_venv(wish_for(lab))
    assert lab.find_interpreter(lab.VENV)


def test_an_update_is_made_in_a_copy(lab, tmp_path):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    (lab.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    (lab.VENV / "lib").mkdir()
    (lab.VENV / "lib64").symlink_to("lib")
    lab.NEW.mkdir()
    (lab.NEW / "left over").touch()
    lab.make_venv(wish_for(lab))
    assert sorted(path.name for path in lab.NEW.iterdir()) == ["bin", "lab-stamp.json", "lib", "lib64", "pyvenv.cfg"]
    assert (lab.NEW / "lib64").is_symlink()
    assert (lab.NEW / "pyvenv.cfg").read_text().endswith("version = 3.11.7\nrelocatable = true\n")
    assert "relocatable" not in (lab.VENV / "pyvenv.cfg").read_text()


def test_the_new_environment_takes_the_place_of_the_old_one_with_its_scripts(lab):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    (lab.VENV / "old").touch()
    wish = beside(lab)
    script(lab.NEW / "bin/activate", f"VIRTUAL_ENV={lab.NEW}")
    lab.put_in_place(wish)
    assert lab.judge_venv(wish) == "ready"
    assert f"VIRTUAL_ENV={lab.VENV}\n" in (lab.VENV / "bin/activate").read_text()
    assert os.access(lab.VENV / "bin/activate", os.X_OK)
    assert not (lab.VENV / "old").exists()
    assert not lab.NEW.exists()
    assert not lab.OLD.exists()


def test_an_environment_that_does_not_work_under_its_new_name_gives_the_place_back(lab, monkeypatch):
    plant_venv(lab, wish_for(lab))
    ask = lab.ask

    def refuse(python, code, *names):
        if code == lab.IMPORT:
            raise lab.BrokenEnvironment("planted")
        return ask(python, code, *names)

    beside(lab, torch="2.13.1")
    monkeypatch.setattr(lab, "ask", refuse)
    with pytest.raises(lab.BrokenEnvironment):
        lab.put_in_place(wish_for(lab))
    assert lab.judge_venv(wish_for(lab)) == "ready"


def test_a_kill_between_the_two_renamings_is_mended_by_the_next_call(lab, monkeypatch):
    plant_venv(lab, wish_for(lab))
    lab.VENV.rename(lab.OLD)
    handed = []
    monkeypatch.setattr(lab.os, "execve", lambda *arguments: handed.append(arguments[1]))
    lab.bootstrap(["doctor"])
    assert handed == [[str(lab.VENV / "bin/python"), "-m", "labsupport", "doctor"]]
