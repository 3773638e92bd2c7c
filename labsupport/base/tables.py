"""Tables as text."""

from __future__ import annotations


def text_table(table: list[list[str]]) -> str:
    """A heading and lines of texts, aligned: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    pad = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(p(cell, w) for p, cell, w in zip(pad, cells, widths, strict=True)).rstrip() for cells in table
    )
