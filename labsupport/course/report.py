"""What was run and measured so far: one self-contained HTML page, and the generated parts of README.md."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labsupport import __version__
from labsupport.base import plots
from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS, ROOT, atomic_write, lab_dir
from labsupport.base.tables import format_bytes
from labsupport.course import notebook as notebook_format
from labsupport.course import outcomes
from labsupport.course.outcomes import Outcome
from labsupport.machine.description import Machine
from labsupport.results import claims, rows, verdicts
from labsupport.results.claims import Claim
from labsupport.results.rows import Row
from labsupport.results.verdicts import Verdict

README = ROOT / "README.md"
VERDICTS = (verdicts.REPRODUCED, verdicts.PARTLY, verdicts.NOT_HERE, verdicts.CORRECTED, verdicts.WAITS, verdicts.OPEN)
FLOOR = "reading alone"  # a lower bound that is measured beside the variants: shown, and never a gain
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


@dataclass(frozen=True)
class Lesson:
    """A notebook as the map shows it."""

    name: str
    title: str
    promise: str
    minutes: float
    needs: list[str]
    articles: list[str]


@dataclass(frozen=True)
class Ladder:
    """Variants of one piece of work, measured together: name -> its latest row, in the order of measuring.

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
    steps: dict[str, Row] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """Where and with what it was measured."""
        threads = self.threads and f"{self.threads} thread{'s' * (self.threads > 1)}"
        return ", ".join(filter(None, [self.model, self.clip, self.backend, self.machine, threads]))


def lessons(folder: Path = NOTEBOOKS) -> list[Lesson]:
    """The course's notebooks, in order."""
    return [_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def _lesson(path: Path) -> Lesson:
    notebook = notebook_format.parse(path.read_text(encoding="utf-8"))
    lab = notebook["metadata"]["lab"]
    facts = (lab[key] for key in ("promise", "minutes", "needs", "articles"))
    return Lesson(path.stem, notebook_format.title(notebook), *facts)


def ladders(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that `Comparison.record` wrote ("topic: variant", in seconds) and those like them by setting.

    A variant that was measured again counts with its latest row.
    """
    return _group(row for row in results if row.unit in ("s", "cycles") and not row.what.startswith(rows.OPS))


def op_tables(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that `rows.record_ops` wrote ("ops of TOPIC: NAME"): for each setting the latest table alone."""
    results = [row for row in results if row.what.startswith(rows.OPS)]
    latest = {_setting(row): row.date for row in results}
    return _group(row for row in results if row.date == latest[_setting(row)])


def trades(results: Iterable[Row]) -> list[Ladder]:
    """Groups the rows that give a rate and the memory that it takes ("topic: variant", in things/s) by setting."""
    return _group(row for row in results if row.unit.endswith("/s") and row.peak_bytes)


def _group(results: Iterable[Row]) -> list[Ladder]:
    found: dict[tuple, Ladder] = {}
    for row in results:
        if ": " in row.what and row.claim is None and row.value is not None:
            key = _setting(row)
            found.setdefault(key, Ladder(*key)).steps[row.what.partition(": ")[2]] = row
    return list(found.values())


def _setting(row: Row) -> tuple:
    """Topic, model, clip, machine, backend, threads and unit, as in `Ladder`."""
    return row.what.partition(": ")[0], row.model, row.clip, row.machine, row.backend, row.threads, row.unit


# --- the page ---------------------------------------------------------------------------------------------------------


def write() -> Path:
    """Gathers what is known and writes `report.html` into the learner's own folder; its path."""
    from labsupport.machine.description import describe_machine

    machine, results = describe_machine(), rows.read_rows()
    verdicts = [verdicts.verdict(claim, results, machine.name) for claim in claims.load()]
    html = page(lessons(), outcomes.last_outcomes(), results, verdicts, machine)
    path = lab_dir() / "report.html"
    with atomic_write(path) as part:
        part.write_text(html, encoding="utf-8")
    return path


def page(
    course: Sequence[Lesson],
    outcomes: Sequence[Outcome],
    results: Sequence[Row],
    verdicts: Sequence[Verdict],
    machine: Machine,
) -> str:
    """The report as HTML that needs nothing from outside itself."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        version=__version__,
        date=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        facts=machine.facts(),
        lessons=[(lesson, [outcome for outcome in outcomes if outcome.notebook == lesson.name]) for lesson in course],
        counts=Counter(outcome.status for outcome in outcomes),
        ladders=[(ladder, ladder_plot(ladder), _step_rows(ladder)) for ladder in ladders(results)],
        trades=[(trade, trade_plot(trade)) for trade in trades(results)],
        op_tables=[(table, _op_rows(table)) for table in op_tables(results)],
        verdict_plot=verdict_plot(verdicts),
        verdict_counts=_verdict_counts(verdicts),
        statuses=VERDICTS,
        articles={article: _of_article(verdicts, article) for article in claims.ARTICLES},
        article_names=claims.ARTICLES,
    )


def ladder_plot(ladder: Ladder) -> str:
    """Bars of the variants' median seconds, or estimated cycles, as an `<img>` with alt text."""
    values = {name: row.value for name, row in ladder.steps.items()}
    spreads = {name: row.spread or 0.0 for name, row in ladder.steps.items()}
    told = "; ".join(f"{name} {value:.3g} {ladder.unit}" for name, value in values.items())
    what = "median seconds (line: interquartile range)" if ladder.unit == "s" else f"{ladder.unit} (estimate)"
    drawn = plots.bars(values, what, ladder.topic, spreads)
    return _svg(drawn, f"Bars of the {what.partition(' (')[0]} of {ladder.topic} ({ladder.setting}): {told}.")


def trade_plot(trade: Ladder) -> str:
    """Rate against peak memory, a point for each variant, as an `<img>` with alt text."""
    points = {name: (row.peak_bytes, row.value) for name, row in trade.steps.items()}
    told = "; ".join(f"{name} {size / 1e6:.0f} MB, {rate:.3g} {trade.unit}" for name, (size, rate) in points.items())
    drawn = plots.trade(points, trade.unit, trade.topic)
    return _svg(drawn, f"{trade.topic} against peak memory ({trade.setting}): {told}.")


def _step_rows(ladder: Ladder) -> list[tuple[str, ...]]:
    """Table rows: variant, seconds, spread, how much faster than the first, peak memory, date."""
    first = next(iter(ladder.steps.values())).value
    return [
        (
            name,
            f"{row.value:.4g} s" if ladder.unit == "s" else f"{row.value:,.0f} {ladder.unit}",
            "" if row.spread is None else f"{row.spread:.2g} {ladder.unit}",
            f"{first / row.value:.2f}x",
            "" if row.peak_bytes is None else format_bytes(row.peak_bytes),
            row.date[:10],
        )
        for name, row in ladder.steps.items()
    ]


def _op_rows(table: Ladder) -> list[tuple[str, ...]]:
    """Table rows: op, its time or cycles, its part of all, what is noted of it."""
    whole = sum(row.value for row in table.steps.values())
    return [
        (name, f"{row.value:,.4g} {row.unit}", f"{100 * row.value / whole:.1f} %" if whole else "", row.note or "")
        for name, row in table.steps.items()
    ]


def verdict_plot(verdicts: Sequence[Verdict]) -> str:
    """Stacked bars of the verdicts per article, as an `<img>` with alt text."""
    drawn, axes = plots.figure(height=2.8)
    names = [f"{article}: {name}" for article, name in claims.ARTICLES.items()]
    left = [0] * len(names)
    for status, colour in zip(VERDICTS, (*plots.COLOURS[:5], "#BBBBBB"), strict=True):
        counts = [_verdict_counts(_of_article(verdicts, article))[status] for article in claims.ARTICLES]
        axes.barh(names, counts, left=left, label=status, color=colour)
        left = [start + count for start, count in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="claims", title="Claims of the articles against measurements")
    drawn.legend(loc="outside lower center", ncols=3, frameon=False)
    told = "; ".join(f"{status} {count}" for status, count in _verdict_counts(verdicts).items())
    return _svg(drawn, f"Stacked bars of the verdicts on each article's claims. Over all articles: {told}.")


def _svg(drawn, alt: str) -> str:
    return plots.image_tag(plots.to_svg(drawn), alt, "image/svg+xml")


def _verdict_counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.status for verdict in verdicts)
    return {status: counts[status] for status in VERDICTS}


def _of_article(verdicts: Iterable[Verdict], article: str) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.claim.article == article]


# --- README.md --------------------------------------------------------------------------------------------------------


def update_readme(path: Path = README) -> Path:
    """Rewrites the generated parts of README.md from the repository alone: notebooks, ledger, reference rows."""
    filled = fill(path.read_text(encoding="utf-8"), readme_tables())
    with atomic_write(path) as part:
        part.write_text(filled, encoding="utf-8", newline="\n")
    return path


def readme_tables() -> dict[str, str]:
    """Name of a generated part -> its Markdown."""
    reference = rows.read_rows(rows.REFERENCE)
    return {
        "map": map_table(lessons()),
        "results": results_table(ladders(reference)),
        "verdicts": verdicts_table(claims.load(), reference),
    }


def fill(text: str, tables: dict[str, str]) -> str:
    """The text with each `<!-- generated: NAME -->` ... `<!-- /generated -->` holding that table.

    Raises:
        CourseError: when the text asks for an unknown table, or has no place for a known one.
    """
    asked = {match[2] for match in GENERATED.finditer(text)}
    if wrong := sorted(asked ^ set(tables)):
        hint = f"the generated parts are {', '.join(sorted(tables))}"
        raise CourseError(f"The text and the generated parts do not agree about {wrong[0]!r}.", hint=hint)
    return GENERATED.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", text)


def map_table(course: Sequence[Lesson]) -> str:
    """The course map."""
    lines = [
        f"[{lesson.name[:2]} {lesson.title}](notebooks/{lesson.name}.ipynb) | {lesson.promise} | {lesson.minutes:g} | "
        f"{', '.join(lesson.needs) or '-'} | {', '.join(lesson.articles) or '-'}"
        for lesson in course
    ]
    return _table("Notebook | You will | Minutes | Needs | Tests article", lines)


def results_table(measured: Sequence[Ladder]) -> str:
    """One line for each ladder of the reference rows that gains something: its first step, its fastest, and what lies
    between. Those without a gain beyond their spread are named below.
    """
    if not measured:
        return "No reference results are stored yet."
    measured = [ladder for ladder in measured if ladder.unit == "s"]
    gains = [ladder for ladder in measured if _gains(ladder)]
    table = _table("What | Start | Fastest | Gain | Measured with", map(_result_line, gains))
    others = [
        f"{ladder.topic} ({ladder.backend})" for ladder in measured if len(ladder.steps) > 1 and ladder not in gains
    ]
    return f"{table}\n\nMeasured, and no gain beyond the spread: {'; '.join(others)}." if others else table


def _ends(ladder: Ladder) -> tuple[tuple[str, Row], tuple[str, Row]]:
    """The first step and the fastest, each with its name; a lower bound is neither."""
    steps = [step for step in ladder.steps.items() if step[0] != FLOOR]
    return steps[0], min(steps, key=lambda step: step[1].value)


def _gains(ladder: Ladder) -> bool:
    (_, first), (_, best) = _ends(ladder)
    return first.value - best.value > (first.spread or 0) + (best.spread or 0)


def _result_line(ladder: Ladder) -> str:
    (start, first), (fastest, best) = _ends(ladder)
    gain = f"{first.value / best.value:.2f}x{' (one run)' if 1 in (first.runs, best.runs) else ''}"
    return f"{ladder.topic} | {start}: {first.value:.3g} s | {fastest}: {best.value:.3g} s | {gain} | {ladder.setting}"


def verdicts_table(ledger: Sequence[Claim], reference: Sequence[Row]) -> str:
    """How many claims of each article have which verdict, by the reference rows."""
    verdicts = [verdicts.verdict(claim, reference, machine="reference") for claim in ledger]
    counts = {article: _verdict_counts(_of_article(verdicts, article)) for article in claims.ARTICLES}
    lines = [
        " | ".join([f"{article}: {claims.ARTICLES[article]}", str(sum(found.values())), *map(str, found.values())])
        for article, found in counts.items()
    ]
    return _table(" | ".join(["Article", "Claims", *VERDICTS]), lines)


def _table(head: str, lines: Iterable[str]) -> str:
    rule = " | ".join(["---"] * (head.count(" | ") + 1))
    return "\n".join(f"| {line} |" for line in [head, rule, *lines])
