"""Where things lie, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from labsupport.base import paths
from labsupport.base.errors import FolderError
from labsupport.base.paths import atomic_write, cache_dir, lab_dir, read_toml, using_folder


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


@pytest.mark.parametrize("find", [cache_dir, lab_dir])
def test_a_folder_without_a_place_is_an_error_with_what_to_do(monkeypatch, tmp_path, find):
    variable = {"cache_dir": "LAB_CACHE", "lab_dir": "LAB_HOME"}[find.__name__]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for place in ("~no-such-user/lab", tmp_path / "circle" / "lab"):
        monkeypatch.setenv(variable, str(place))
        if sys.version_info < (3, 13) or "~" in str(place):  # newer Pythons follow a circle until it is opened
            with pytest.raises(FolderError, match="no such folder") as caught:
                find()
            assert variable in caught.value.hint


def test_the_cache_of_a_process_without_a_home_is_an_error(monkeypatch):
    monkeypatch.delenv("LAB_CACHE", raising=False)
    monkeypatch.setattr(paths, "user_cache", lambda: Path("~/.cache/lab"))  # platformdirs' answer
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(FolderError) as caught:
        cache_dir()
    assert "LAB_CACHE" in caught.value.hint


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EDQUOT])
def test_a_refusal_to_write_says_what_and_where_and_what_to_do(tmp_path, code):
    with pytest.raises(FolderError, match=os.strerror(code)) as caught, using_folder(tmp_path, "LAB_HOME"):
        raise OSError(code, os.strerror(code))
    assert caught.value.where == tmp_path
    assert re.search("[Ss]et LAB_HOME to a folder", caught.value.hint)
    assert ("Free some space" in caught.value.hint) == (code in (errno.ENOSPC, errno.EDQUOT))


# --- faults of real folders -------------------------------------------------------------------------------------------

# Does what commands do in the folders, once as it is, so that all is imported, then in each case, as a user who may not
# write everywhere: root becomes nobody.
WORK = """
import json, os, sys
from pathlib import Path
from labsupport.base import paths
from labsupport.base.cached_folder import cached_folder
from labsupport.base.errors import LabError
from labsupport.course import attempts, outcomes, report
from labsupport.machine import roofline
from labsupport.profiling import recording
from labsupport.results import rows
report.ladder_plot = lambda ladder: ""
roofline.measure_roofline = lambda framework, machine: roofline.Roofline("d", 1.0, 1.0, {"float32": 1.0})
cases, read_only_root = json.loads(sys.argv[1]), Path(sys.argv[2])
def take_lock():
    with outcomes.only_run(): pass
works = {
    "row": lambda: rows.record("x", 1.0, "s"),
    "rows": rows.read_rows,
    "run": take_lock,
    "result": lambda: outcomes.store(outcomes.NotebookResult("00_start_here", "torch", "passed", "r")),
    "exercise": lambda: attempts.record_solved("1.1"),
    "report": report.write,
    "trace": lambda: recording.profile(lambda: None, warmup=0),
    "cached": lambda: cached_folder(paths.cache_dir() / "f", "numbers", 1, lambda f: (f / "a").write_text("x" * 9999)),
    "limits": lambda: roofline.find_roofline(refresh=True),
}
def outcome(work):
    try: work()
    except LabError as error: return f"{type(error).__name__} {error}"
    except Exception as error: return f"raw {type(error).__name__} {error}"
    return "done"
os.environ.update(cases.pop("whole"))
first = {name: outcome(work) for name, work in works.items()}
found = {"whole": first}
if os.geteuid() == 0: os.setuid(65534)
paths.ROOT = read_only_root
for case, variables in cases.items():
    for name in ("LAB_HOME", "LAB_RESULTS", "LAB_CACHE", "HOME", "XDG_CACHE_HOME"): os.environ.pop(name, None)
    os.environ.update(variables)
    found[case] = {name: outcome(work) for name, work in works.items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes_of():
    """Case -> what was done -> what came of it."""
    if not hasattr(os, "geteuid"):
        pytest.skip("only POSIX has these permissions")
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to other users, again whenever another pytest begins
    try:
        yield try_folders(folder)
    finally:
        for name in ("closed", "locked", "root"):
            (folder / name).chmod(0o755)
        shutil.rmtree(folder)


def try_folders(folder):
    folder.chmod(0o755)
    modes = {"locked": 0o555, "root": 0o555, "free": 0o777, "home": 0o777, "closed": 0}
    for name, mode in modes.items():
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    (folder / "file").write_text("x")
    free, locked, file = (str(folder / name) for name in ("free", "locked", "file"))
    good = {"LAB_HOME": f"{free}/lab", "LAB_CACHE": f"{free}/cache", "HOME": str(folder / "home")}
    cases = {
        "whole": {"LAB_HOME": f"{folder}/warm/lab", "LAB_CACHE": f"{folder}/warm/cache"},
        "read-only checkout": {key: value for key, value in good.items() if key != "LAB_HOME"},
        "read-only checkout, results elsewhere": good,
        "home read-only": {**good, "LAB_HOME": f"{locked}/lab"},
        "home not to be looked into": {**good, "LAB_HOME": f"{folder}/closed/lab"},
        "home is a file": {**good, "LAB_HOME": file},
        "results read-only": {**good, "LAB_RESULTS": f"{locked}/results"},
        "results are a file": {**good, "LAB_RESULTS": file},
        "cache read-only": {**good, "LAB_CACHE": f"{locked}/cache"},
        "cache is a file": {**good, "LAB_CACHE": file},
        "no HOME": {"LAB_HOME": good["LAB_HOME"]},
    }
    with full_disk(folder / "full") as full:
        if full:
            cases["home full"] = {**good, "LAB_HOME": f"{full}/lab"}
            cases["cache full"] = {**good, "LAB_CACHE": f"{full}/cache"}
        command = [sys.executable, "-c", WORK, json.dumps(cases), folder / "root"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def full_disk(place):
    """A file system with no room for a block, where this process may mount one; else None."""
    place.mkdir()
    options = "size=64k,mode=1777"
    mount = shutil.which("mount")
    mounted = mount and not subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", place], stderr=-1).returncode
    if not mounted:
        yield None
        return
    try:
        for name in ("lab", "cache"):
            (place / name).mkdir(mode=0o777)
            (place / name).chmod(0o777)
        with contextlib.suppress(OSError), open(place / "filling", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


NEEDS_HOME = ("row", "run", "result", "exercise", "report", "trace")
NEEDS_CACHE = ("cached", "limits")
REFUSED = {  # case -> what fails, and the variable that the error names
    "read-only checkout": (NEEDS_HOME, "LAB_HOME"),
    "home read-only": (NEEDS_HOME, "LAB_HOME"),
    "home not to be looked into": (NEEDS_HOME, "LAB_HOME"),
    "home is a file": (NEEDS_HOME, "LAB_HOME"),
    "results read-only": (("row",), "LAB_RESULTS"),
    "results are a file": (("row",), "LAB_RESULTS"),
    "cache read-only": (NEEDS_CACHE, "LAB_CACHE"),
    "cache is a file": (NEEDS_CACHE, "LAB_CACHE"),
    "home full": (("row", "result", "exercise", "report"), "LAB_HOME"),
    "cache full": (NEEDS_CACHE, "LAB_CACHE"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_of_the_system_that_takes_nothing_is_named_with_what_to_do(outcomes_of, case):
    if case not in outcomes_of:
        pytest.skip("no file system can be mounted here")
    names, variable = REFUSED[case]
    for name in names:
        text = outcomes_of[case][name]
        assert text.startswith("FolderError"), f"{name}: {text}"
        assert re.search(f"[Ss]et {variable} to a folder", text), f"{name}: {text}"
    assert not [text for text in outcomes_of[case].values() if text.startswith("raw")]


@pytest.mark.slow
def test_a_read_only_checkout_runs_with_its_results_elsewhere(outcomes_of):
    for case in ("whole", "read-only checkout, results elsewhere"):
        done = {name: text for name, text in outcomes_of[case].items() if name != "trace"}
        assert set(done.values()) == {"done"}, done


@pytest.mark.slow
def test_without_a_home_only_the_cache_has_no_place(outcomes_of):
    texts = outcomes_of["no HOME"]
    assert not [text for text in texts.values() if text.startswith("raw")]
    assert texts["row"] == texts["report"] == "done"


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


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    target, synced = tmp_path / "a.txt", []

    def note(descriptor):
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", note)
    with atomic_write(target) as part:
        part.write_text("whole")
    assert synced == [(target.stat().st_ino, 5, False)]


def test_a_disk_that_refuses_at_last_leaves_the_old_file(tmp_path, monkeypatch):
    """A quota of a network's disk, or of one that allocates late, is told of by fsync alone."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    with pytest.raises(FolderError, match="quota"), using_folder(tmp_path, "LAB_HOME"), atomic_write(target) as part:
        part.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_toml_is_read_and_damage_is_an_error(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "語"', encoding="utf-8")
    assert read_toml(path) == {"name": "語"}
    path.write_text("=")
    with pytest.raises(ValueError, match="line 1"):
        read_toml(path)
