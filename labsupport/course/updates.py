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

    If there is one, `./lab update --local` of that version takes the place of this process: it brings the environment
    and the learner's pages up to date.

    Raises:
        NotAvailable: this folder is no clone, or git could not pull; git's own words say why.
    """
    before = call_git("rev-parse", "HEAD")
    call_git("pull", "--ff-only")
    if call_git("rev-parse", "HEAD") != before:
        lab = [sys.executable, "-I", str(ROOT / "lab"), "update", "--local"]
        sys.exit(subprocess.run(children.guarded(lab), check=False).returncode)


def call_git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotAvailable("git is not installed.", hint=BY_HAND) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise NotAvailable(f"git {arguments[0]} failed: {said}", where=ROOT, hint=BY_HAND)
    return done.stdout.strip()
