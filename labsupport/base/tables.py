"""Tables: lines of texts, the heading first, as plain text, Markdown or HTML; and how numbers are written in them.

Each function takes `left`: how many of the first columns are aligned to the left. The others, numbers, go to the right.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from decimal import Decimal

from labsupport.base.errors import printable

Line = Sequence[str]


def text_table(lines: Sequence[Line], left: int = 1) -> str:
    """Columns as wide as their longest cell, two spaces between them; a cell is one line."""
    lines = [[printable(cell) for cell in cells] for cells in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(_sides(lines, left), widths, strict=True))
    return "\n".join(form.format(*cells).rstrip() for cells in lines)


def markdown_table(lines: Sequence[Line], left: int = 1) -> str:
    """A table of GitHub's Markdown; what would end a cell or the line, or hide what follows, is escaped."""
    rule = ["---" if side == "<" else "---:" for side in _sides(lines, left)]
    heading, *rest = ([_markdown_cell(cell) for cell in cells] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heading, rule, *rest])


def html_table(lines: Sequence[Line], left: int = 1) -> str:
    """A `<table>`; the cells' text is escaped."""
    sides = _sides(lines, left)
    tags = ["th", *["td"] * (len(lines) - 1)]
    return f"<table>{''.join(_html_line(tag, cells, sides) for tag, cells in zip(tags, lines, strict=True))}</table>"


def drop_empty_columns(columns: dict[str, list[str]]) -> list[list[str]]:
    """Heading -> its column's cells, as lines; a column in which no cell holds anything is left out."""
    filled = {heading: cells for heading, cells in columns.items() if any(cells)}
    return [list(filled), *map(list, zip(*filled.values(), strict=True))]


def format_bytes(count: float) -> str:
    """3.2 GB, 41.0 MB: powers of ten, as the articles count."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"


def format_seconds(seconds: float) -> str:
    """1.23 s, 12.3 ms, 456 µs: three digits."""
    for scale, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def format_number(value: float, digits: int = 3) -> str:
    """72.6 million, 12,300, 0.000012: so many digits and no exponent; what is beyond a trillion times 1000 has one."""
    text = f"{value:.{digits}g}"
    rounded = abs(float(text))
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if size <= rounded < 1e15:
            return f"{float(text) / size:.{digits}g} {name}"
    if "e" not in text or rounded >= 1e15:
        return text
    return f"{float(text):,.0f}" if rounded >= 1 else format(Decimal(text), "f")


def _markdown_cell(text: str) -> str:
    return printable(" ".join(text.split())).replace("|", "\\|").replace("<!--", "&lt;!--")


def _sides(lines: Sequence[Line], left: int) -> list[str]:
    return ["<" if number < left else ">" for number in range(len(lines[0]))]


def _html_line(tag: str, cells: Line, sides: Iterable[str]) -> str:
    styles = ["" if side == "<" else ' style="text-align: right"' for side in sides]
    return f"<tr>{''.join(f'<{tag}{s}>{html.escape(c)}</{tag}>' for c, s in zip(cells, styles, strict=True))}</tr>"
