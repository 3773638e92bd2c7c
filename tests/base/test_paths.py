"""Where things lie, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from labsupport.base import paths
from labsupport.base.paths import atomic_write, cache_dir, lab_dir, read_toml


def test_the_root_holds_what_it_should():
    for place in (paths.ROOT / "pyproject.toml", paths.NOTEBOOKS, paths.DATA, paths.AUDIO):
        assert place.exists()


def test_variables_move_the_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "h"))
    assert (cache_dir(), lab_dir()) == (tmp_path / "c", tmp_path / "h")
    monkeypatch.delenv("LAB_CACHE")
    monkeypatch.delenv("LAB_HOME")
    assert cache_dir().name == "speech-inference-lab"
    assert lab_dir() == paths.ROOT / ".lab"
    monkeypatch.setenv("LAB_HOME", "~/lab")
    assert lab_dir() == Path.home().resolve() / "lab"


def write_half(target):
    with atomic_write(target) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_write(target) as part:
        part.write_text("one")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError):
        write_half(target)
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_toml_is_read_and_damage_is_an_error(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "語"', encoding="utf-8")
    assert read_toml(path) == {"name": "語"}
    path.write_text("=")
    with pytest.raises(ValueError, match="line 1"):
        read_toml(path)
