"""Folders that are made once and are whole ever after."""

from __future__ import annotations

import errno
import json
import os
import threading

import filelock
import pytest

from labsupport.base import cached_folder as module
from labsupport.base.cached_folder import cached_folder, find_damage, hash_file
from labsupport.base.errors import FolderError


class Writer:
    """Fills a folder with one file, and counts how often."""

    def __init__(self, content="one"):
        self.calls, self.content = 0, content

    def __call__(self, folder):
        self.calls += 1
        (folder / "a.txt").write_text(self.content)


def make(folder, write, expected=None):
    return cached_folder(folder, "numbers", 1, write, expected)


def test_a_folder_is_made_once_and_then_read(tmp_path):
    write = Writer()
    for _ in range(2):
        assert (make(tmp_path / "f", write) / "a.txt").read_text() == "one"
    assert write.calls == 1
    assert json.loads((tmp_path / "f" / "manifest.json").read_text()) == {"a.txt": hash_file(tmp_path / "f" / "a.txt")}


DAMAGES = {
    "a.txt has changed": lambda folder: (folder / "a.txt").write_text("others"),
    "b.txt is not in its manifest": lambda folder: (folder / "b.txt").write_text("more"),
    "a.txt is missing": lambda folder: (folder / "a.txt").unlink(),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "it cannot be read": lambda folder: (folder / "manifest.json").write_text("{"),
    "it cannot be read: its manifest": lambda folder: (folder / "manifest.json").write_text('["a.txt"]'),
    "it cannot be read: its manifest is": lambda folder: (folder / "manifest.json").write_text("{}"),
    "it cannot be read: its manifest is of": lambda folder: (folder / "manifest.json").write_text('{"a.txt": null}'),
    "it cannot be read: its manifest is of another": lambda folder: (folder / "manifest.json").write_text(
        json.dumps({"files": {"a.txt": "0"}, "version": 2})
    ),
    "it cannot be read: its manifest is of another form: '../": lambda folder: (folder / "manifest.json").write_text(
        json.dumps({"../b.txt": "0"})
    ),
    "it cannot be read: it is nested": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named_and_made_again(tmp_path, caplog, damage):
    write, folder = Writer(), make(tmp_path / "f", Writer())
    DAMAGES[damage](folder)
    assert find_damage(folder).startswith(damage)
    make(folder, write)
    assert (write.calls, find_damage(folder)) == (1, None)
    assert damage in caplog.text


def test_what_a_file_manager_leaves_is_no_damage(tmp_path):
    folder = make(tmp_path / "f", Writer())
    (folder / ".DS_Store").write_text("x")
    assert find_damage(folder) is None


def test_a_folder_from_other_weights_is_made_again(tmp_path):
    folder = make(tmp_path / "f", Writer())
    write = Writer("two")
    make(folder, write, {"a.txt": "another hash"})
    assert (write.calls, (folder / "a.txt").read_text()) == (1, "two")


def test_a_writer_that_fails_leaves_nothing_and_what_a_killed_process_left_goes(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("stop")

    (tmp_path / "f.123.part").mkdir()
    with pytest.raises(RuntimeError, match="stop"):
        make(tmp_path / "f", fail)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_file_in_the_folders_place_makes_way(tmp_path):
    (tmp_path / "f").write_text("x")
    assert (make(tmp_path / "f", Writer()) / "a.txt").read_text() == "one"


def test_a_file_in_the_place_of_the_cache_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(FolderError, match="cannot be stored") as caught:
        make(tmp_path / "cache" / "f", Writer())
    assert caught.value.hint.startswith("Set LAB_CACHE")


def test_who_waits_too_long_for_another_process_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    with filelock.FileLock(tmp_path / "f.lock"), pytest.raises(FolderError, match="Another process"):
        make(tmp_path / "f", Writer())


def test_a_full_disk_is_an_error_with_a_hint(tmp_path):
    def fill(folder):
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(FolderError, match="no space left") as caught:
        make(tmp_path / "f", fill)
    assert "Free 1 MB" in caught.value.hint


def test_of_two_at_once_one_makes_it(tmp_path):
    write = Writer()
    threads = [threading.Thread(target=make, args=(tmp_path / "f", write)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert write.calls == 1


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path, monkeypatch):
    folder = make(tmp_path / "f", Writer())
    assert find_damage(folder) is None
    monkeypatch.setattr(module, "hash_file", None)
    assert find_damage(folder) is None
    monkeypatch.undo()
    os.utime(folder / "a.txt", ns=(1, 1))
    assert find_damage(folder) is None
