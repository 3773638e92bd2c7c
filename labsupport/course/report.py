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
from labsupport.base.tables import format_bytes, format_number, markdown_table
from labsupport.course import notebook as notebook_format
from labsupport.course import outcomes, runner, sessions
from labsupport.course.outcomes import NotebookResult
from labsupport.course.sessions import Session
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

    @property
    def number(self) -> str:
        """What its name begins with: "03", or "00b" where a page came between two others."""
        return self.name.partition("_")[0]


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
    """The first step, the fastest, and how many times as fast it is; None where that is noise, or one is too noisy.

    The ratio is the pairs', and noise if its interval holds 1; in older rows it is that of the medians, and noise
    within both spreads. A lower bound that was measured beside the variants is neither.
    """
    steps = {name: row for name, row in ladder.steps.items() if name != LOWER_BOUND}
    if not steps:
        return None
    start, fastest = next(iter(steps)), min(steps, key=lambda name: steps[name].number)
    first, best = steps[start], steps[fastest]
    if first.is_too_noisy() or best.is_too_noisy():
        return None
    if best.gain and best.against == start:
        ratio, low, _high = best.gain
        return (start, fastest, ratio) if low > 1 else None
    if first.number - best.number <= (first.spread or 0) + (best.spread or 0):
        return None
    return start, fastest, first.number / best.number


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Rows in two heaps, by where they lie and not by the machine: another of the same kind may have both.

    Args:
        own: what this learner's notebooks and benchmarks recorded.
        reference: what came with the course.
        unnamed: how many rows of the learner's folder no notebook and no benchmark recorded; they are left out.
    """

    own: Sequence[Row] = ()
    reference: Sequence[Row] = ()
    unnamed: int = 0
    odd: Sequence[OddLine] = ()

    @property
    def slow(self) -> list[Row]:
        """The learner's rows that are not of a fast run: those alone count in totals."""
        return [row for row in self.own if row.fast is not True]


def read_results() -> Results:
    """The reference rows and the learner's; none of the latter where results go among the reference rows."""
    reference, folder = rows.scan(rows.REFERENCE), rows.results_dir()
    if folder == rows.REFERENCE.resolve():
        return Results(reference=reference.rows, odd=reference.odd)
    named, unnamed = rows.scan_by_group(folder)
    return Results(named.rows, reference.rows, len(unnamed.rows), [*reference.odd, *named.odd, *unnamed.odd])


def write() -> Path:
    """Gathers what is known and writes `report.html` into the learner's own folder; its path.

    Lines that are no rows are left out; a warning and the page name them.
    """
    results = read_results()
    json_lines.name_odd(results.odd, "result row")
    text = page(lessons(), outcomes.last_results(), results, describe_machine(), sessions.last_sessions())
    path = lab_dir() / "report.html"
    with using_folder(path.parent, "LAB_HOME"), atomic_write(path) as part:
        part.write_text(
            mask(text), encoding="utf-8", errors="backslashreplace"
        )  # half a character, as JSON can spell it
    return path


def page(
    course: Sequence[Lesson],
    runs: Sequence[NotebookResult],
    results: Results,
    machine: Machine,
    kernels: Sequence[Session] = (),
    ledger: Sequence[Claim] | None = None,
) -> str:
    """The report as HTML that needs nothing from outside itself; the learner's own results come first."""
    import jinja2

    ledger = claims.load() if ledger is None else ledger
    published = [verdicts.verdict(claim, results.reference, "reference") for claim in ledger]
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=drop_control_codes
    )
    return environment.get_template("report.html.j2").render(
        version=__version__,
        date=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        facts=machine.facts(),
        lessons=[
            (
                lesson,
                [run for run in runs if run.notebook == lesson.name],
                [kernel for kernel in kernels if kernel.notebook == lesson.name],
            )
            for lesson in course
        ],
        counts=Counter(run.status for run in runs),
        parts=[_part("own", "Your results", results.own), _part("reference", "Reference results", results.reference)],
        unnamed=results.unnamed,
        noisiest=f"{rows.NOISIEST:.0%}",
        busy=f"{rows.BUSY:.0%}",
        verdict_plot=verdict_plot(published),
        verdict_counts=count_verdicts(published),
        own_verdicts=own_verdicts(ledger, results, machine.name),
        own_counts=count_own(ledger, results, machine.name),
        articles={article: of_article(published, article) for article in claims.ARTICLES},
        article_names=claims.ARTICLES,
        odd=results.odd,
    )


def _part(key: str, title: str, results: Sequence[Row]) -> dict:
    """One half of the page: the learner's rows, or the reference rows."""
    measured = ladders(results)
    compared = [ladder for ladder in measured if ladder.unit == "s" and len(ladder.steps) > 1]
    return {
        "key": key,
        "title": title,
        "gains": _gain_lines(compared),
        "without_gain": [f"{ladder.topic} ({ladder.setting})" for ladder in compared if find_gain(ladder) is None],
        "ladders": [(ladder, ladder_plot(ladder), _step_lines(ladder)) for ladder in measured],
        "trades": [(trade, trade_plot(trade)) for trade in trades(results)],
        "op_tables": [(table, _op_lines(table)) for table in op_tables(results)],
    }


def own_verdicts(ledger: Iterable[Claim], results: Results, machine: str) -> dict[str, Verdict]:
    """Claim's id -> the verdict of the learner's own rows alone; no entry where there are none."""
    found = {}
    for claim in ledger:
        rows_of_it = [row for row in results.own if row.claim == claim.id]
        slow = [row for row in rows_of_it if row.fast is not True]
        if rows_of_it:
            found[claim.id] = verdicts.verdict(claim, slow or rows_of_it, machine)
    return found


def count_own(ledger: Iterable[Claim], results: Results, machine: str) -> dict[str, int]:
    """Status -> how many claims have it by the learner's rows that are not of a fast run."""
    tested = {row.claim for row in results.slow}
    return count_verdicts(verdicts.verdict(claim, results.slow, machine) for claim in ledger if claim.id in tested)


def drop_control_codes(value: object) -> object:
    """Text without what a terminal or a browser would obey; markup, which is ours, as it is."""
    return CONTROL.sub("", value) if type(value) is str else value


def ladder_plot(ladder: Ladder) -> str:
    """Bars of the variants' median seconds, or estimated cycles, as an `<img>` with alt text."""
    values = {name: row.number for name, row in ladder.steps.items()}
    spreads = {name: row.spread or 0.0 for name, row in ladder.steps.items()}
    what = "median seconds (line: interquartile range)" if ladder.unit == "s" else f"{ladder.unit} (estimate)"
    numbers = "; ".join(f"{name} {format_number(value)} {ladder.unit}" for name, value in values.items())
    drawn = plots.bars(values, what, ladder.topic, spreads)
    return _svg(drawn, f"Bars of the {what.partition(' (')[0]} of {ladder.topic} ({ladder.setting}): {numbers}.")


def trade_plot(trade: Ladder) -> str:
    """Rate against peak memory, a point for each variant, as an `<img>` with alt text."""
    points = {name: (row.peak_bytes or 0, row.number) for name, row in trade.steps.items()}
    numbers = "; ".join(
        f"{name} {size / 1e6:,.0f} MB, {format_number(rate)} {trade.unit}" for name, (size, rate) in points.items()
    )
    drawn = plots.trade(points, trade.unit, trade.topic)
    return _svg(drawn, f"{trade.topic} against peak memory ({trade.setting}): {numbers}.")


def _gain_lines(compared: Iterable[Ladder]) -> list[tuple[str, ...]]:
    """Table lines: what was measured, its first variant, the fastest, the gain, and the setting."""
    lines = []
    for ladder in compared:
        if gain := find_gain(ladder):
            start, fastest, ratio = gain
            first, best = ladder.steps[start], ladder.steps[fastest]
            marks = ["one run"] if 1 in (first.runs, best.runs) else []
            marks += [text for text in (mark(best),) if text]
            ends = (f"{name}: {format_number(row.number)} s" for name, row in ((start, first), (fastest, best)))
            lines.append((ladder.topic, *ends, _gain_text(ratio, best, start, marks), ladder.setting))
    return lines


def _gain_text(ratio: float, row: Row, start: str, marks: Sequence[str] = ()) -> str:
    """3.14x (2.92 to 3.47; fast): a gain, the interval of its pairs where they were stored, and its marks."""
    interval = [f"{row.gain[1]:.2f} to {row.gain[2]:.2f}"] if row.gain and row.against == start else []
    beside = "; ".join([*interval, *marks])
    return f"{ratio:.2f}x ({beside})" if beside else f"{ratio:.2f}x"


def _step_lines(ladder: Ladder) -> list[tuple[str, ...]]:
    """Table lines: variant, seconds, spread, how much faster than the first, peak memory, date, and a mark.

    How much faster is the pairs' ratio, or in older rows that of the medians.
    """
    start, first = next(iter(ladder.steps.items()))
    return [
        (
            name,
            f"{format_number(row.number, 4)} {ladder.unit}"
            if ladder.unit == "s"
            else f"{row.value:,.0f} {ladder.unit}",
            "" if row.spread is None else f"{format_number(row.spread, 2)} {ladder.unit}",
            _gain_text(row.gain[0] if row.gain and row.against == start else first.number / row.number, row, start),
            "" if row.peak_bytes is None else format_bytes(row.peak_bytes),
            row.date[:10],
            mark(row),
        )
        for name, row in ladder.steps.items()
    ]


def mark(row: Row) -> str:
    """A few letters beside a row that needs care; empty beside others."""
    marks = (("too noisy", row.is_too_noisy()), ("busy", row.is_busy()), ("fast", row.fast is True))
    return ", ".join(text for text, is_so in marks if is_so)


def _op_lines(table: Ladder) -> list[tuple[str, ...]]:
    """Table lines: op, its time or cycles, its part of all, its note."""
    whole = sum(row.number for row in table.steps.values())
    return [
        (
            name,
            f"{format_number(row.number, 4)} {row.unit}",
            f"{100 * row.number / whole:.1f} %" if whole else "",
            row.note or "",
        )
        for name, row in table.steps.items()
    ]


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def verdict_plot(found: Sequence[Verdict]) -> str:
    """Stacked bars of the verdicts per article, as an `<img>` with alt text."""
    parts = {f"{key}: {name}": count_verdicts(of_article(found, key)) for key, name in claims.ARTICLES.items()}
    drawn = plots.stacked_bars(parts, "claims", "Claims of the articles against measurements")
    numbers = "; ".join(f"{status} {count}" for status, count in count_verdicts(found).items())
    return _svg(drawn, f"Stacked bars of the verdicts on each article's claims. Over all articles: {numbers}.")


def _svg(drawn, alt: str) -> str:
    return plots.image_tag(plots.to_svg(drawn), alt, "image/svg+xml")


def count_verdicts(found: Iterable[Verdict]) -> dict[str, int]:
    """Status -> how many have it, for every status; what rests on a fast run counts as open."""
    counts = Counter(verdicts.OPEN if verdict.row and verdict.row.fast is True else verdict.status for verdict in found)
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
