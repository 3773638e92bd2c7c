"""`./lab update` against real clones: the new version is pulled and takes over; what was changed stays."""

from __future__ import annotations

import subprocess

import pytest

from labsupport.base.errors import NotAvailable
from labsupport.course import updates

LAB = "import sys; print('the new one:', *sys.argv[1:], flush=True); sys.exit({setup} if 'setup' in sys.argv else 3)\n"
IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org")


def git(folder, *arguments):
    subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "A version")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The repository that the lab's folder, a clone, was made from."""
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):  # of a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "published").mkdir()
    git(tmp_path / "published", "init")
    commit(tmp_path / "published", lab="raise SystemExit('the old one')\n", page="1")
    git(tmp_path, "clone", "published", "mine")
    monkeypatch.setattr(updates, "ROOT", tmp_path / "mine")
    return tmp_path / "published"


def test_without_a_new_version_nothing_is_started(published):
    updates.fetch()


def test_the_new_version_is_pulled_and_its_own_command_goes_on(published, capfd):
    commit(published, lab=LAB.format(setup=0), page="2")
    with pytest.raises(SystemExit) as ended:
        updates.fetch()
    assert ended.value.code == 3
    assert capfd.readouterr().out == "the new one: setup\nthe new one: update --local\n"
    assert (updates.ROOT / "page").read_text() == "2"


def test_a_new_version_that_cannot_be_set_up_is_taken_back_and_changes_of_one_s_own_stay(published, capfd):
    (updates.ROOT / "own").write_text("a note")
    commit(published, lab=LAB.format(setup=1), page="2")
    with pytest.raises(NotAvailable, match="the old one is back"):
        updates.fetch()
    assert capfd.readouterr().out == "the new one: setup\n"
    assert ((updates.ROOT / "page").read_text(), (updates.ROOT / "own").read_text()) == ("1", "a note")
    commit(published, lab=LAB.format(setup=0), page="3")
    with pytest.raises(SystemExit):
        updates.fetch()
    assert (updates.ROOT / "page").read_text() == "3"


def test_what_was_changed_in_the_course_s_folder_stays_and_git_says_why(published):
    commit(published, page="2")
    (updates.ROOT / "page").write_text("mine")
    with pytest.raises(NotAvailable, match=r"git pull failed: .*page"):
        updates.fetch()
    assert (updates.ROOT / "page").read_text() == "mine"


def test_a_folder_that_is_no_clone_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(updates, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(NotAvailable, match="not a git repository") as raised:
        updates.fetch()
    assert "update --local" in raised.value.hint


def test_without_git_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match="git is not installed"):
        updates.fetch()
