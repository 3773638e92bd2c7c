"""The graphs' folder: built once, made again when damaged, and anew whenever the code that builds them changes."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest
from fresh_process import run_together
from small_whisper import SMALL

from labsupport.base import cached_folder
from labsupport.base.errors import GraphError
from labsupport.base.paths import ROOT
from labsupport.graphs import store, whisper_graphs
from labsupport.graphs.loop_interface import read_interface

PACKAGE = ROOT / "labsupport"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    return store.find_graphs(SMALL, 7, [50])


# --- the sources that are hashed --------------------------------------------------------------------------------------


def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported_files(file: Path) -> set[Path]:
    """The modules of labsupport that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {found for name in names if name.startswith("labsupport.") and (found := module_file(name))}


def builders() -> set[Path]:
    """All that store.py imports to build graphs, in this room and from speech.features, in turn."""
    found, waiting = set(), {PACKAGE / "graphs" / "store.py"}
    while waiting:
        file = waiting.pop()
        found.add(file)
        inside = {f for f in imported_files(file) if f.parent != PACKAGE and PACKAGE / "graphs" in f.parents}
        inside |= imported_files(file) & {PACKAGE / "speech" / "features.py"}
        waiting |= inside - found
    return found - {PACKAGE / "graphs" / "__init__.py"}


def test_every_module_that_builds_graphs_is_hashed_and_no_other():
    assert {(store.HERE / name).resolve() for name in store.BUILDERS} == builders()


def test_a_changed_byte_in_each_of_them_changes_the_hash(tmp_path):
    copy = tmp_path / "graphs"
    shutil.copytree(store.HERE, copy)
    (tmp_path / "speech").mkdir()
    shutil.copy(PACKAGE / "speech" / "features.py", tmp_path / "speech")
    hashes = {store.hash_builders.__wrapped__(copy)}
    assert hashes == {store.hash_builders()}
    for name in store.BUILDERS:
        (copy / name).write_bytes((copy / name).read_bytes() + b"#")
        hashes.add(store.hash_builders.__wrapped__(copy))
    assert len(hashes) == 1 + len(store.BUILDERS)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_loops_interface_is_stored_beside_it(folder):
    assert store.read_stored_interface(folder) == read_interface(whisper_graphs.loop(SMALL))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"7",
        b"[" * 100_000,
        b"\xff",
        b'{"cache": "grows", "capacity": null, "layout": [0, 1, 2], "cross_layout": [0, 1, 2, 3]}',
        b'{"cache": "grows", "capacity": "9", "layout": [0, 1, 2, 3], "cross_layout": [0, 1, 2, 3]}',
        b'{"cache": ["grows"], "capacity": null, "layout": [0, 1, 2, 3], "cross_layout": [0, 1, 2, 3]}',
        b'{"cache": "grows", "capacity": null, "layout": [0, 1, 2, "3"], "cross_layout": 5}',
        None,
    ],
    ids=lambda content: repr(content)[:30],
)
def test_an_interface_that_is_none_is_a_graph_error(tmp_path, content):
    if content is not None:
        (tmp_path / "interface.json").write_bytes(content)
    with pytest.raises(GraphError, match="interface is damaged"):
        store.read_stored_interface(tmp_path)


@pytest.mark.parametrize("file", ["weights.bin", "loop.onnx", "interface.json"])
def test_a_damaged_graph_is_noticed_and_made_again(folder, caplog, file):
    before = (folder / file).read_bytes()
    (folder / file).write_bytes(before[:-1] + b"?")
    assert store.find_graphs(SMALL, 7, [50]) == folder
    assert f"small-enough (random weights) is damaged ({file} has changed); it is made again" in caplog.text
    assert (folder / file).read_bytes() == before


def test_undamaged_graphs_are_not_built_again(folder, monkeypatch):
    monkeypatch.setattr(cached_folder, "replace_folder", None)
    assert store.find_graphs(SMALL, 7, [50]) == folder


def test_graphs_of_other_options_stand_beside_and_those_of_other_code_are_replaced(folder, monkeypatch):
    other = store.find_graphs(SMALL, 7, [50, 51])
    assert other != folder
    assert folder.exists()
    monkeypatch.setattr(store, "hash_builders", lambda: "another source")
    newest = store.find_graphs(SMALL, 7, [50])
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [newest]


BUILD = """
import logging; logging.basicConfig(level="INFO")
from small_whisper import SMALL
from labsupport.graphs import store
print(store.find_graphs(SMALL, 7, [50]))
"""


@pytest.mark.slow
def test_two_processes_build_once(tmp_path):
    modules = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    outputs = run_together([BUILD, BUILD], LAB_CACHE=str(tmp_path), PYTHONPATH=modules)
    assert outputs[0][0] == outputs[1][0]
    assert sum(err.count("Building the ONNX graphs") for _, err in outputs) == 1


def test_weights_are_stored_once_for_all_graphs(folder):
    embedding = dict(SMALL.tensors())["model.decoder.embed_tokens.weight"].tobytes()
    assert (folder / "weights.bin").read_bytes().count(embedding) == 1
