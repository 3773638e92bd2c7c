"""The one base of every error that a user of the lab may meet."""

from __future__ import annotations


class LabError(Exception):
    """Says what was wrong, where, and what to do next.

    Modules raise their own subclasses, so that a caller can tell them apart; the command line prints any of them
    without a traceback.

    Args:
        what: one sentence, what was wrong.
        where: the file, setting or value that it is about.
        hint: what to do next.
    """

    def __init__(self, what: str, *, where: object = None, hint: str | None = None):
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return "\n".join(lines)
