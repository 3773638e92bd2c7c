"""Plots in one style, with alt text that reaches the reader."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from labsupport.base.errors import printable
from labsupport.base.masking import mask
from labsupport.base.tables import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any common colour blindness can distinguish.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
LARGE = 10_000  # from here on an axis is labelled in full: 20 million, not 2 and 1e7 in a corner
LONGEST = 90  # characters of a name in a plot
PALETTE = 256
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 11,
    "svg.fonttype": "path",  # the picture looks the same where the font is missing
    "svg.hashsalt": "speech-inference-lab",  # the same figure gives the same bytes
}


def is_static_page() -> bool:
    """Whether this run makes a page that nobody can operate: `LAB_STATIC_PAGE`, which `lab run` sets."""
    return bool(os.environ.get("LAB_STATIC_PAGE"))


def figure(width: float = 6.4, height: float = 3.6):
    """A new figure and its axes in the lab's style, in inches; not in pyplot's list, which would show it twice."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        drawn = Figure(figsize=(width, height))
        return drawn, drawn.subplots()


def bars(values: Mapping[str, float], unit: str, title: str, spreads: Mapping[str, float] | None = None) -> Figure:
    """Horizontal bars, the first on top, each with its value; `spreads` are drawn as error bars of that total width."""
    from matplotlib.ticker import MaxNLocator

    drawn, axes = figure(height=1.0 + 0.42 * len(values))
    names, lengths = _labels(values), list(values.values())
    errors = [spreads.get(name, 0.0) / 2 for name in values] if spreads else None
    drawn_bars = axes.barh(names, lengths, xerr=errors, color=COLOURS[0], ecolor=COLOURS[3], capsize=3)
    axes.bar_label(drawn_bars, [f" {format_number(length)}" for length in lengths], padding=4)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    if max(lengths, default=0) >= LARGE:
        axes.xaxis.set_major_locator(MaxNLocator(4))  # their labels are long
        axes.xaxis.set_major_formatter(lambda value, _: format_number(value))
    axes.set(xlabel=_label(unit), title=_label(title))
    return drawn


def stacked_bars(parts: Mapping[str, Mapping[str, float]], unit: str, title: str) -> Figure:
    """Horizontal bars, the first on top, each made of its named parts; a part has one colour in all bars."""
    drawn, axes = figure(height=1.4 + 0.42 * len(parts))
    names = dict.fromkeys(part for bar in parts.values() for part in bar)
    ends = dict.fromkeys(parts, 0.0)
    for name in names:
        lengths = [bar.get(name, 0.0) for bar in parts.values()]
        axes.barh(_labels(parts), lengths, left=list(ends.values()), label=_label(name))
        ends = {bar: end + length for (bar, end), length in zip(ends.items(), lengths, strict=True)}
    axes.invert_yaxis()
    axes.set(xlabel=_label(unit), title=_label(title))
    drawn.legend(loc="outside lower center", ncols=3, frameon=False)
    return drawn


def panels(columns: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Bars of several quantities beside each other: unit -> {name: value}; the names are the same, the first on top."""
    names = list(next(iter(columns.values())))
    drawn, _ = figure(8.4, 1.2 + 0.32 * len(names))
    drawn.clear()
    drawn.suptitle(_label(title))
    for axes, (unit, values) in zip(drawn.subplots(1, len(columns), sharey=True), columns.items(), strict=True):
        drawn_bars = axes.barh(_labels(names), [values[name] for name in names], color=COLOURS[0])
        axes.bar_label(drawn_bars, fmt=lambda length: f" {length:.3g}" if length < 1000 else f" {length:,.0f}")
        axes.margins(x=0.2)
        axes.set(xlabel=_label(unit))
        axes.spines[["right", "top"]].set_visible(False)
    axes.invert_yaxis()
    return drawn


def trade(points: Mapping[str, tuple[float, float]], unit: str, title: str) -> Figure:
    """Speed against memory: name -> (bytes at most, things a second), a numbered point each; `unit` says which things.

    Those on the Pareto front are joined: no other is both smaller and faster. Numbers stand left and right in turns, so
    that those of neighbouring points do not overlap.
    """
    drawn, axes = figure(8.4, 4.4)
    for number, (name, (size, rate)) in enumerate(sorted(points.items(), key=lambda point: -point[1][1]), 1):
        axes.plot(size / 1e6, rate, "o", color=COLOURS[0], label=_label(f"{number}  {name}"))
        aside = {"xytext": (4, 4), "ha": "left"} if number % 2 else {"xytext": (-4, 4), "ha": "right"}
        axes.annotate(str(number), (size / 1e6, rate), **aside, textcoords="offset points", fontsize="small")
    front, fastest = [], 0.0
    for size, rate in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if rate > fastest:
            front.append((size / 1e6, rate))
            fastest = rate
    axes.plot(*zip(*front, strict=True), color=COLOURS[2], linewidth=1, zorder=0)
    axes.set(xlabel="peak memory (MB)", ylabel=_label(unit), title=_label(title), xlim=(0, None), ylim=(0, None))
    beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}  # names in the plot would lie on one another
    axes.legend(**beside, handlelength=0, markerscale=0, fontsize="small", frameon=False)
    return drawn


def show(drawn: Figure, alt: str) -> None:
    """Shows a figure in a notebook as a PNG with alt text, in HTML: JupyterLab drops that of an `image/png` output."""
    from IPython.display import display

    data = {"text/html": image_tag(to_png(drawn), alt, "image/png"), "text/plain": f"Plot: {alt}"}
    display(data, raw=True)


def image_tag(data: bytes, alt: str, mime: str) -> str:
    """Picture -> a self-contained HTML `<img>`, as wide as its page allows; ValueError where `alt` is empty."""
    if not alt.strip():
        raise ValueError("a plot needs alt text: what does it show?")
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(printable(mask(alt)))}" src="data:{mime};base64,{encoded}" style="max-width: 100%">'


def to_png(drawn: Figure) -> bytes:
    """With a palette of `PALETTE` colours: the same to the eye, in a third to a half of the bytes."""
    from PIL import Image  # which matplotlib brings: it writes its own PNGs with it

    picture = Image.open(io.BytesIO(_rendered(drawn, "png"))).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(PALETTE, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def to_svg(drawn: Figure) -> bytes:
    """The same bytes for the same figure, without matplotlib's address in it."""
    return _rendered(drawn, "svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def _label(text: str) -> str:
    """Text as a plot shows it: in one line, not too long, and nothing in it read as a formula."""
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return printable(short).replace("$", "\\$")


def _labels(names: Iterable[str]) -> list[str]:
    """A label for each name, and no two the same: bars of one label would lie on one another."""
    labels: list[str] = []
    for name in names:
        label = _label(name)
        labels.append(label if label not in labels else f"{label} ({labels.count(label) + len(labels)})")
    return labels


def _rendered(drawn: Figure, form: str, **options) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawn.savefig(buffer, format=form, **options)
    return buffer.getvalue()
