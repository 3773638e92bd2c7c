"""A new version of the course: fetched with git, then its environment and the learner's pages follow."""

from __future__ import annotations

import subprocess
import sys

from labsupport.base.errors import NotAvailable
from labsupport.base.paths import ROOT
from labsupport.machine import children

BY_HAND = "Unpack the new version over this folder, or `git pull`; then `./lab update --local`."


def fetch() -> None:
    """Pulls the new version, without a merge: what was changed in the course's folder is never overwritten.

    If there is one, its environment is made, and its `./lab update --local` goes on in place of this process: it brings
    the learner's pages up to date.

    Raises:
        NotAvailable: this folder is no clone, or git could not pull, which git's own words explain; or the new
            version's environment could not be made, and the old version is back.
    """
    before = call_git("rev-parse", "HEAD")
    call_git("pull", "--ff-only")
    if call_git("rev-parse", "HEAD") != before:
        if call_lab("setup"):
            call_git("reset", "--keep", before)
            raise NotAvailable("The new version could not be set up; the old one is back.", hint="It says why above.")
        sys.exit(call_lab("update", "--local"))


def call_lab(*arguments: str) -> int:
    """The exit code of a command of the version that is here now."""
    lab = [sys.executable, "-I", str(ROOT / "lab"), *arguments]
    return subprocess.run(children.guarded(lab), check=False).returncode


def call_git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotAvailable("git is not installed.", hint=BY_HAND) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise NotAvailable(f"git {arguments[0]} failed: {said}", where=ROOT, hint=BY_HAND)
    return done.stdout.strip()
