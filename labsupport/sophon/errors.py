"""What can go wrong between us and the compiler."""

from __future__ import annotations

from labsupport.errors import LabError


class SophonError(LabError):
    """The TPU compiler could not be had, or did not do its work."""


class NotHere(SophonError):
    """This machine cannot have the compiler: a notebook goes on with stored results."""


class WrongPlatform(NotHere):
    """TPU-MLIR has a build for Linux on x86-64 alone."""


class NoPython310(NotHere):
    """TPU-MLIR runs on Python 3.10 alone, and there is none here."""


class InstallFailed(NotHere):
    """The installer did not get what it was to install."""


class BrokenToolchain(SophonError):
    """The environment was made, but is not what it must be."""


class ToolFailed(SophonError):
    """A tool ended with an error; its last lines are quoted."""


class ToolTimeout(SophonError):
    """A tool took too long and was ended."""


class DamagedOutput(SophonError):
    """A file that the compiler wrote, or that is kept from an earlier run, is not what it must be."""
