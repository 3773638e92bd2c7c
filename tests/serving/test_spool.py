"""The folder of uploads: bounded, private, and cleared of what dead processes left."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from labsupport.base.errors import FolderError
from labsupport.serving import spool as spools
from labsupport.serving.problems import Problem
from labsupport.serving.spool import LOCK, PREFIX, Spool, clear_stale

DYING = """
import os, sys
from pathlib import Path
from labsupport.serving.spool import Spool
with Spool(1000, Path(sys.argv[1])).open() as upload:
    upload.write(b"sound")
    upload.file.flush()
    os.kill(os.getpid(), 9)
"""


def test_an_upload_lies_in_a_private_file_until_its_block_ends(tmp_path):
    spool = Spool(100, tmp_path)
    with spool.open() as upload:
        upload.write(b"abc")
        upload.finish()
        assert upload.path.read_bytes() == b"abc"
        assert spool.bytes == 3
        if os.name == "posix":
            assert stat.S_IMODE(upload.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert spool.bytes == 0
    assert not upload.path.exists()
    spool.close()
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_a_spool_that_the_system_has_cleared_is_made_again(tmp_path):
    spool = Spool(100, tmp_path)
    with spool.open() as lost:
        shutil.rmtree(spool.folder)
        with spool.open() as upload:
            upload.write(b"abc")
            upload.finish()
            assert upload.path.read_bytes() == b"abc"
            assert clear_stale(tmp_path) == 0  # its lock is held
    assert (spool.bytes, lost.path.exists(), upload.path.exists()) == (0, False, False)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_removes_the_upload_too(tmp_path):
    spool = Spool(100, tmp_path)
    with contextlib.suppress(KeyError), spool.open() as upload:
        upload.write(b"abc")
        raise KeyError
    assert (spool.bytes, upload.path.exists()) == (0, False)


def test_all_uploads_together_are_bounded(tmp_path):
    spool = Spool(10, tmp_path)
    with spool.open() as first, spool.open() as second:
        first.write(b"123456")
        with pytest.raises(Problem) as caught:
            second.write(b"12345")
        assert (caught.value.status, caught.value.code) == (429, "spool_full")
        second.write(b"1234")
    with spool.open() as third:
        third.write(b"1234567890")


def test_threads_count_right(tmp_path):
    spool = Spool(10**9, tmp_path)

    def upload(_):
        with spool.open() as each:
            for _ in range(200):
                each.write(b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(40)))
    assert spool.bytes == 0


def test_a_killed_process_leaves_a_spool_that_the_next_start_clears(tmp_path):
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False)
    assert done.returncode == -9
    (left,) = tmp_path.glob(f"{PREFIX}*/*[!k]")
    assert left.read_bytes() == b"sound"
    spool = Spool(10, tmp_path)
    assert spool.cleared == 1
    assert list(tmp_path.iterdir()) == [spool.folder]


def test_what_lives_or_is_no_spool_is_left_alone(tmp_path, monkeypatch):
    living = Spool(10, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}file").write_text("no folder")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(outside)
    being_made = tmp_path / f"{PREFIX}new"
    being_made.mkdir()
    before = set(tmp_path.rglob("*"))
    assert clear_stale(tmp_path) == 0
    assert set(tmp_path.rglob("*")) == before
    later = time.time() + 100
    monkeypatch.setattr(spools.time, "time", lambda: later)
    assert clear_stale(tmp_path) == 1
    assert not being_made.exists()
    assert living.folder.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="TMPDIR"):
        Spool(10, tmp_path / "file")
