"""What was run and measured so far, as one HTML page that needs nothing from outside itself."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labsupport import __version__
from labsupport.base import json_lines, plots
from labsupport.base.json_lines import OddLine
from labsupport.base.masking import mask
from labsupport.base.paths import atomic_write, lab_dir, using_folder
from labsupport.base.tables import format_bytes, markdown_table
from labsupport.course import notebook as notebook_format
from labsupport.course import outcomes, runner
from labsupport.course.outcomes import NotebookResult
from labsupport.machine.description import Machine, describe_machine
from labsupport.results import claims, rows, verdicts
from labsupport.results.claims import Claim
from labsupport.results.rows import Row
from labsupport.results.verdicts import Verdict

LOWER_BOUND = "reading alone"  # measured beside the variants: shown, and never a gain
SESSION_GAP = (
    120  # seconds between two rows of one session at most, where they have no run id: they are written together
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


@dataclass(frozen=True)
class Lesson:
    """A notebook as the map shows it."""

    name: str
    title: str
    promise: str
    minutes: float
    needs: list[str]
    articles: list[str]
    backends: list[str]


@dataclass(frozen=True)
class Ladder:
    """Variants of one piece of work, measured in one session: name -> its row, in the order of measuring.

    Or the ops of one run: name -> its row, the largest first. unit: "s", a rate's "samples/s", or what an estimate
    counts, "cycles".
    """

    topic: str
    model: str | None
    clip: str | None
    machine: str
    backend: str
    threads: int | None
    unit: str
    run_id: str | None = None
    steps: dict[str, Row] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """Where and with what it was measured."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}" if self.threads else None
        return ", ".join(filter(None, [self.model, self.clip, self.backend, self.machine, threads]))

    def accepts(self, row: Row) -> bool:
        """Whether the row continues this session: same commit, a variant that is not in it yet, and the same run.

        Rows without a run id are of one run if there was no long pause between them.
        """
        last = list(self.steps.values())[-1]
        pause = datetime.datetime.fromisoformat(row.date) - datetime.datetime.fromisoformat(last.date)
        same_run = row.run_id == self.run_id and (self.run_id or pause.total_seconds() < SESSION_GAP)
        return bool(same_run) and row.commit == last.commit and _step_name(row) not in self.steps


def lessons() -> list[Lesson]:
    """The course's notebooks, in order."""
    found = []
    for path in runner.find_notebooks():
        notebook = runner.read(path)
        facts = [notebook["metadata"]["lab"][key] for key in ("promise", "minutes", "needs", "articles", "backends")]
        found.append(Lesson(path.stem, notebook_format.title(notebook), *facts))
    return found


def ladders(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that `Comparison.record` wrote ("topic: variant", in seconds) and those like them by session."""
    return group_sessions(row for row in results if row.unit in ("s", "cycles") and not row.what.startswith(rows.OPS))


def op_tables(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that `rows.record_ops` wrote ("ops of TOPIC: NAME"): for each setting the latest table alone."""
    results = [row for row in results if row.what.startswith(rows.OPS) and not row.find_oddity()]
    latest = {_setting(row): row.date for row in results}
    return group_sessions(row for row in results if row.date == latest[_setting(row)])


def trades(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that give a rate and the memory that it takes ("topic: variant", in things/s) by session."""
    return group_sessions(row for row in results if row.unit.endswith("/s") and row.peak_bytes)


def group_sessions(results: Iterable[Row]) -> list[Ladder]:
    """Rows in the order of their dates -> their sessions; one of which a later one has every variant is left out.

    So is a row whose figure can be no result.
    """
    found: dict[tuple, list[Ladder]] = {}
    for row in results:
        if ": " in row.what and row.claim is None and row.value is not None and row.find_oddity() is None:
            sessions = found.setdefault(_setting(row), [])
            latest = next((ladder for ladder in reversed(sessions) if ladder.run_id == row.run_id), None)
            if latest is None or not latest.accepts(row):
                latest = replace(Ladder(*_setting(row)), run_id=row.run_id)
                sessions.append(latest)
            latest.steps[_step_name(row)] = row
    return [
        ladder
        for sessions in found.values()
        for number, ladder in enumerate(sessions, 1)
        if not any(ladder.steps.keys() <= later.steps.keys() for later in sessions[number:])
    ]


def _setting(row: Row) -> tuple:
    """Topic, model, clip, machine, backend, threads and unit, as in `Ladder`."""
    return row.what.partition(": ")[0], row.model, row.clip, row.machine, row.backend, row.threads, row.unit


def _step_name(row: Row) -> str:
    return row.what.partition(": ")[2]


def find_gain(ladder: Ladder) -> tuple[str, str, float] | None:
    """The first step, the fastest, and how many times as fast it is; None where that is within the noise.

    The ratio is the pairs', and noise if its interval holds 1; in older rows it is that of the medians, and noise
    within both spreads. A lower bound that was measured beside the variants is neither.
    """
    steps = {name: row for name, row in ladder.steps.items() if name != LOWER_BOUND}
    if not steps:
        return None
    start, fastest = next(iter(steps)), min(steps, key=lambda name: steps[name].number)
    first, best = steps[start], steps[fastest]
    if best.gain and best.against == start:
        ratio, low, _high = best.gain
        return (start, fastest, ratio) if low > 1 else None
    if first.number - best.number <= (first.spread or 0) + (best.spread or 0):
        return None
    return start, fastest, first.number / best.number


# --- the page ---------------------------------------------------------------------------------------------------------


def write() -> Path:
    """Gathers what is known and writes `report.html` into the learner's own folder; its path.

    Lines that are no rows are left out; a warning and the page name them.
    """
    machine, reading = describe_machine(), rows.scan()
    json_lines.name_odd(reading.odd, "result row")
    found = [verdicts.verdict(claim, reading.rows, machine.name) for claim in claims.load()]
    text = page(lessons(), outcomes.last_results(), reading.rows, found, machine, reading.odd)
    path = lab_dir() / "report.html"
    with using_folder(path.parent, "LAB_HOME"), atomic_write(path) as part:
        part.write_text(
            mask(text), encoding="utf-8", errors="backslashreplace"
        )  # half a character, as JSON can spell it
    return path


def page(
    course: Sequence[Lesson],
    runs: Sequence[NotebookResult],
    results: Sequence[Row],
    found: Sequence[Verdict],
    machine: Machine,
    odd: Sequence[OddLine] = (),
) -> str:
    """The report as HTML that needs nothing from outside itself."""
    import jinja2

    measured = ladders(results)
    compared = [ladder for ladder in measured if ladder.unit == "s" and len(ladder.steps) > 1]
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=drop_control_codes
    )
    return environment.get_template("report.html.j2").render(
        version=__version__,
        date=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        facts=machine.facts(),
        lessons=[(lesson, [run for run in runs if run.notebook == lesson.name]) for lesson in course],
        counts=Counter(run.status for run in runs),
        gains=_gain_lines(compared),
        without_gain=[f"{ladder.topic} ({ladder.setting})" for ladder in compared if find_gain(ladder) is None],
        ladders=[(ladder, ladder_plot(ladder), _step_lines(ladder)) for ladder in measured],
        trades=[(trade, trade_plot(trade)) for trade in trades(results)],
        op_tables=[(table, _op_lines(table)) for table in op_tables(results)],
        verdict_plot=verdict_plot(found),
        verdict_counts=count_verdicts(found),
        articles={article: of_article(found, article) for article in claims.ARTICLES},
        article_names=claims.ARTICLES,
        odd=odd,
    )


def drop_control_codes(value: object) -> object:
    """Text without what a terminal or a browser would obey; markup, which is ours, as it is."""
    return CONTROL.sub("", value) if type(value) is str else value


def ladder_plot(ladder: Ladder) -> str:
    """Bars of the variants' median seconds, or estimated cycles, as an `<img>` with alt text."""
    values = {name: row.number for name, row in ladder.steps.items()}
    spreads = {name: row.spread or 0.0 for name, row in ladder.steps.items()}
    what = "median seconds (line: interquartile range)" if ladder.unit == "s" else f"{ladder.unit} (estimate)"
    numbers = "; ".join(f"{name} {value:.3g} {ladder.unit}" for name, value in values.items())
    drawn = plots.bars(values, what, ladder.topic, spreads)
    return _svg(drawn, f"Bars of the {what.partition(' (')[0]} of {ladder.topic} ({ladder.setting}): {numbers}.")


def trade_plot(trade: Ladder) -> str:
    """Rate against peak memory, a point for each variant, as an `<img>` with alt text."""
    points = {name: (row.peak_bytes or 0, row.number) for name, row in trade.steps.items()}
    numbers = "; ".join(f"{name} {size / 1e6:.0f} MB, {rate:.3g} {trade.unit}" for name, (size, rate) in points.items())
    drawn = plots.trade(points, trade.unit, trade.topic)
    return _svg(drawn, f"{trade.topic} against peak memory ({trade.setting}): {numbers}.")


def _gain_lines(compared: Iterable[Ladder]) -> list[tuple[str, ...]]:
    """Table lines: what was measured, its first variant, the fastest, the gain, and the setting."""
    lines = []
    for ladder in compared:
        if gain := find_gain(ladder):
            start, fastest, ratio = gain
            first, best = ladder.steps[start], ladder.steps[fastest]
            runs = " (one run)" if 1 in (first.runs, best.runs) else ""
            ends = (f"{name}: {row.value:.3g} s" for name, row in ((start, first), (fastest, best)))
            lines.append((ladder.topic, *ends, f"{ratio:.2f}x{runs}", ladder.setting))
    return lines


def _step_lines(ladder: Ladder) -> list[tuple[str, ...]]:
    """Table lines: variant, seconds, spread, how much faster than the first, peak memory, date."""
    first = next(iter(ladder.steps.values())).number
    return [
        (
            name,
            f"{row.value:.4g} s" if ladder.unit == "s" else f"{row.value:,.0f} {ladder.unit}",
            "" if row.spread is None else f"{row.spread:.2g} {ladder.unit}",
            f"{first / row.number:.2f}x",
            "" if row.peak_bytes is None else format_bytes(row.peak_bytes),
            row.date[:10],
        )
        for name, row in ladder.steps.items()
    ]


def _op_lines(table: Ladder) -> list[tuple[str, ...]]:
    """Table lines: op, its time or cycles, its part of all, its note."""
    whole = sum(row.number for row in table.steps.values())
    return [
        (name, f"{row.value:,.4g} {row.unit}", f"{100 * row.number / whole:.1f} %" if whole else "", row.note or "")
        for name, row in table.steps.items()
    ]


def verdict_plot(found: Sequence[Verdict]) -> str:
    """Stacked bars of the verdicts per article, as an `<img>` with alt text."""
    parts = {f"{key}: {name}": count_verdicts(of_article(found, key)) for key, name in claims.ARTICLES.items()}
    drawn = plots.stacked_bars(parts, "claims", "Claims of the articles against measurements")
    numbers = "; ".join(f"{status} {count}" for status, count in count_verdicts(found).items())
    return _svg(drawn, f"Stacked bars of the verdicts on each article's claims. Over all articles: {numbers}.")


def _svg(drawn, alt: str) -> str:
    return plots.image_tag(plots.to_svg(drawn), alt, "image/svg+xml")


def count_verdicts(found: Iterable[Verdict]) -> dict[str, int]:
    """Status -> how many have it, for every status."""
    counts = Counter(verdict.status for verdict in found)
    return {status: counts[status] for status in verdicts.STATUSES}


def of_article(found: Iterable[Verdict], article: str) -> list[Verdict]:
    """The verdicts on one article's claims."""
    return [verdict for verdict in found if verdict.claim.article == article]


def verdicts_table(ledger: Iterable[Claim], results: Sequence[Row]) -> str:
    """Markdown: how many claims of each article have which verdict."""
    found = [verdicts.verdict(claim, results) for claim in ledger]
    lines = []
    for article, name in claims.ARTICLES.items():
        counts = count_verdicts(of_article(found, article)).values()
        lines.append((f"{article}: {name}", str(sum(counts)), *map(str, counts)))
    return markdown_table([("Article", "Claims", *verdicts.STATUSES), *lines])
