"""environment.yml and the Dockerfiles against the one source of versions, pyproject.toml and uv.lock."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from labsupport.base.paths import ROOT, read_toml

DOCKERFILES = ("Dockerfile.cuda", "Dockerfile.ascend")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    "mac": {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
}
PYTHON = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


@cache
def read_settings(name: str) -> dict:
    return read_toml(ROOT / name)


def locked_versions(platform: str) -> dict[str, str]:
    """What uv.lock installs there with Python 3.11 and MindSpore: {package: version}, found by walking its graph."""
    environment = {**PLATFORMS[platform], **PYTHON}
    packages = {(p["name"], p.get("version")): p for p in read_settings("uv.lock")["package"]}
    versions_of = {name: [v for n, v in packages if n == name] for name, _ in packages}
    found, to_visit = {}, [("speech-inference-lab", None, ("mindspore",))]
    seen = set()
    while to_visit:
        name, version, extras = to_visit.pop()
        version = version or versions_of[name][0]
        if (name, version, extras) in seen:
            continue
        seen.add((name, version, extras))
        found[name] = version
        package = packages[name, version]
        needs = list(package.get("dependencies", []))
        for extra in extras:
            needs += package.get("optional-dependencies", {}).get(extra, [])
        for need in needs:
            if "marker" in need and not Requirement(f"x; {need['marker']}").marker.evaluate(environment):
                continue
            to_visit.append((need["name"], need.get("version"), tuple(need.get("extra", ()))))
    del found["speech-inference-lab"]
    return found


def read_environment(text: str) -> tuple[list[str], list[str]]:
    """The conda part and pip's part of an environment.yml, the latter without pip's options."""
    entries = yaml.safe_load(text)["dependencies"]
    conda = [entry for entry in entries if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    return conda, [line for line in pip if not line.startswith("--")]


def find_differences(text: str, platform: str) -> list[str]:
    """Where an environment.yml does not say what the lock says for this platform; each line names one package."""
    environment = {**PLATFORMS[platform], **PYTHON}
    pins = [Requirement(line) for line in read_environment(text)[1]]
    said = {p.name: str(p.specifier) for p in pins if p.marker is None or p.marker.evaluate(environment)}
    wanted = {name: f"=={version}" for name, version in locked_versions(platform).items()}
    wanted["torch"] = f"=={read_settings('pyproject.toml')['tool']['lab']['torch']}"
    return [
        f"{n}: {said.get(n)} is not {wanted.get(n)}" for n in sorted({*said, *wanted}) if said.get(n) != wanted.get(n)
    ]


def environment_text() -> str:
    return (ROOT / "environment.yml").read_text(encoding="utf-8")


# conda


@pytest.mark.parametrize("platform", PLATFORMS)
def test_conda_users_get_what_the_lock_says(platform):
    assert find_differences(environment_text(), platform) == []


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (("transformers==4.57.6", "transformers==4.57.5"), "transformers: ==4.57.5 is not ==4.57.6"),
        (("      - numpy==1.26.4\n", ""), "numpy: None is not ==1.26.4"),
        (("torch==2.13.0", "torch==2.12.0"), "torch: ==2.12.0 is not ==2.13.0"),
        (("      - numpy==", "      - leftpad==1.0\n      - numpy=="), "leftpad: ==1.0 is not None"),
        (("mindspore==2.7.0", "mindspore>=2.7.0"), "mindspore: >=2.7.0 is not ==2.7.0"),
    ],
)
def test_a_wrong_pin_is_caught(planted, told):
    text = environment_text()
    assert planted[0] in text
    assert find_differences(text.replace(*planted, 1), "linux") == [told]


def test_the_walk_over_the_lock_finds_the_direct_needs():
    project = read_settings("pyproject.toml")["project"]
    direct = [Requirement(need) for need in project["dependencies"] + project["optional-dependencies"]["mindspore"]]
    direct = [need for need in direct if need.marker is None or need.marker.evaluate({**PLATFORMS["linux"], **PYTHON})]
    found = locked_versions("linux")
    assert {need.name: str(need.specifier) for need in direct} == {
        need.name: f"=={found[need.name]}" for need in direct
    }
    assert len(found) > 2 * len(direct)


def test_conda_specs_are_well_formed_and_ask_for_a_python_that_the_project_allows():
    import rattler
    from rattler.exceptions import InvalidMatchSpecError

    conda, _ = read_environment(environment_text())
    specs = [rattler.MatchSpec(line, strict=True) for line in conda]
    assert {spec.name.normalized for spec in specs} == {"python", "pip"}
    asked = SpecifierSet(next(line for line in conda if line.startswith("python")).removeprefix("python"))
    allowed = SpecifierSet(read_settings("pyproject.toml")["project"]["requires-python"])
    some = [f"3.{minor}.{patch}" for minor in range(8, 15) for patch in (0, 4, 5, 9)]
    assert {v for v in some if v in asked} == {v for v in some if v in allowed and v in SpecifierSet(">=3.11.5")}
    with pytest.raises(InvalidMatchSpecError):
        rattler.MatchSpec("python >=3.11.5,,<3.12", strict=True)


# Images. None is built here, as there is no container engine: these tests are what was verified.


def read_instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, arguments) pairs, with comments taken out and continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def read_args(dockerfile: str) -> dict[str, str]:
    return dict(rest.split("=", 1) for name, rest in read_instructions(dockerfile) if name == "ARG" and "=" in rest)


def find_missing_sources(dockerfile: str) -> list[str]:
    """The sources of COPY that the repository does not have; those from other images are not looked at."""
    copies = [shlex.split(rest) for name, rest in read_instructions(dockerfile) if name in ("COPY", "ADD")]
    here = [
        [word for word in copy if not word.startswith("--")][:-1] for copy in copies if "--from" not in " ".join(copy)
    ]
    return [source for sources in here for source in sources if not (ROOT / source).exists()]


def find_wrong_versions(dockerfile: str) -> list[str]:
    """The versions in ARG that are not those of pyproject.toml's [tool.lab]."""
    pins = {
        f"{name.upper()}_VERSION": version for name, version in read_settings("pyproject.toml")["tool"]["lab"].items()
    }
    return [f"{name} is {value}" for name, value in read_args(dockerfile).items() if pins.get(name, value) != value]


def lint(path: Path) -> str:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_are_clean_and_true(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert lint(ROOT / name) == ""
    assert find_missing_sources(text) == []
    assert find_wrong_versions(text) == []
    assert {"BASE_IMAGE", "BASE_TAG", "UV_VERSION"} <= set(read_args(text))
    assert ("FROM", "${BASE_IMAGE}:${BASE_TAG}") in read_instructions(text)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_jupyter_as_an_ordinary_user_and_never_without_a_token(name):
    instructions = read_instructions((ROOT / name).read_text(encoding="utf-8"))
    assert [rest for instruction, rest in instructions if instruction == "USER"][-1] == "${LAB_UID}"
    assert [instruction for instruction, _ in instructions][-1] == "CMD"
    command = instructions[-1][1]
    assert "jupyter" in command
    assert not re.search(r"token|password|allow-root|disable_check", command, re.I)


def test_an_empty_token_still_gives_a_closed_server(monkeypatch):
    """The images lean on Jupyter for this: unset or empty, it makes a token of its own."""
    from jupyter_server.auth.identity import PasswordIdentityProvider

    for value in ("", None):
        monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
        if value is not None:
            monkeypatch.setenv("JUPYTER_TOKEN", value)
        assert len(PasswordIdentityProvider().token) >= 32
    monkeypatch.setenv("JUPYTER_TOKEN", "mine")
    assert PasswordIdentityProvider().token == "mine"


def test_the_ascend_image_keeps_its_own_mindspore_and_numpy_1():
    text = (ROOT / "Dockerfile.ascend").read_text(encoding="utf-8")
    runs = " ".join(rest for instruction, rest in read_instructions(text) if instruction == "RUN")
    assert read_args(text)["BASE_TAG"] == "openeuler-python3.10-cann8.1.rc1-mindspore2.6.0rc1"
    assert "venv --system-site-packages" in runs
    assert "--no-emit-package mindspore" in runs
    assert "mindspore==" not in runs
    assert locked_versions("linux")["numpy"].startswith("1.")


@pytest.mark.parametrize(
    ("planted", "find", "told"),
    [
        (("COPY --chown=lab:lab labsupport", "COPY --chown=lab:lab labsuport"), find_missing_sources, ["labsuport"]),
        (("UV_VERSION=0.13.8", "UV_VERSION=0.13.7"), find_wrong_versions, ["UV_VERSION is 0.13.7"]),
    ],
)
def test_a_wrong_source_or_version_is_caught(planted, find, told):
    text = (ROOT / "Dockerfile.cuda").read_text(encoding="utf-8")
    assert planted[0] in text
    assert find(text.replace(*planted)) == told


def test_the_linter_catches_a_planted_fault(tmp_path):
    planted = tmp_path / "Dockerfile"
    planted.write_text("FROM debian\nRUN cd /tmp\nUSER root\n")
    assert {"DL3006", "DL3003", "DL3002"} <= set(re.findall(r"DL\d+", lint(planted)))


def test_every_ignored_rule_has_its_reason_in_the_line_before():
    for name in DOCKERFILES:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for before, line in itertools.pairwise(lines):
            for rule in re.findall(r"DL\d+", line) if "hadolint ignore=" in line else []:
                assert before.startswith(f"# {rule}: "), (name, line)


# Papers


def test_licences_and_citation_say_the_same():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]
    text = (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
    assert "Section 8 – Interpretation" in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = read_settings("pyproject.toml")["project"]
    assert " AND ".join(citation["license"]) == project["license"]
    assert citation["version"] == project["version"]
