"""What can be wrong with a file that a profiler wrote."""

from __future__ import annotations

from ..errors import LabError


class TraceError(LabError):
    """A profiler's file cannot be used. The subclasses say why."""


class MissingTrace(TraceError):
    """There is no such file, or a folder without what a profiler writes."""


class EmptyTrace(TraceError):
    """The file is empty, or it holds no op at all."""


class DamagedTrace(TraceError):
    """The file breaks off, or holds something that is no number where a number must be."""


class ForeignTrace(TraceError):
    """The file is whole, but another kind of file: not the columns, or not the JSON, that the reader knows."""
