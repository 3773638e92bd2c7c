"""What the terminal shows: the progress of a run, and its summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from labsupport.base.errors import printable
from labsupport.course.exercises import Exercise
from labsupport.course.outcomes import NotebookResult, Summary
from labsupport.machine.doctor import Check

COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
# What moves a terminal's cursor, colours it, or names its window (ECMA-48): ESC [ ... m, ESC ] ... BEL, ESC 7.
ESCAPE_CODE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)


def plain_text(text: object) -> str:
    """Text of a name, a cell or an error without escape codes; other control characters but line ends are escaped."""
    return "\n".join(map(printable, ESCAPE_CODE.sub("", str(text)).split("\n")))


def safe(text: object) -> str:
    """Text for a line of rich's markup."""
    return escape(plain_text(text))


class RunProgress(Progress):
    """A bar for the notebooks, a bar for the cells of the one at work, and a line for each that is done.

    The lines stay where there is no terminal (a log); the bars do not.
    """

    def __init__(self, console: Console | None = None):
        at = TextColumn("{task.fields[at]}", markup=False)
        columns = ("{task.description}", BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), at)
        super().__init__(*columns, console=console, transient=True)
        self.notebooks = self.add_task("notebooks", at="")
        self.cells = self.add_task("cells", at="", visible=False)

    def start_notebook(self, name: str, cells: int) -> None:
        """A new notebook of this many cells begins."""
        self.reset(self.cells, total=cells, description=safe(name), at="", visible=True)

    def start_cell(self, cell: dict, cell_index: int) -> None:
        """Cell number `cell_index` begins; its first line is shown beside the bar."""
        first = (cell["source"].splitlines() or [""])[0][:60]
        self.update(self.cells, completed=cell_index, at=plain_text(first))

    def report_result(self, result: NotebookResult, reused: bool) -> None:
        """A notebook is done: lines that stay."""
        self.update(self.cells, visible=False)
        for line in result_lines(result, reused):
            self.console.print(line, highlight=False)


class BatchProgress(Progress):
    """A bar for a long measurement: how much is done, and an estimate of the time left."""

    def __init__(self, console: Console | None = None):
        columns = ("{task.description}", BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True)
        self.batches = self.add_task("batches")

    def report_batch(self, done: int, total: int, at: str) -> None:
        """`done` of `total` batches are finished; `at` is at work."""
        self.update(self.batches, completed=done, total=total, description=safe(at))


def result_lines(result: NotebookResult, reused: bool) -> Iterator[str]:
    """One line on how the notebook went, then a line for each part it skipped and for its failure."""
    detail = "taken over from the interrupted run" if reused else result.reason or f"{result.seconds:.1f} s"
    status = f"[{COLOURS[result.status]}]{result.status:>7}[/]"
    yield f"{status}  {safe(result.notebook)} ({result.backend}): {safe(detail)}"
    for reason in result.skips:
        yield f"         skipped inside: {safe(reason)}"
    if failure := result.failure:
        place = f"cell {failure.cell}: " if failure.cell else ""
        yield f"         {safe(f'{place}{failure.kind}: {failure.message}')}"


def summarise(summary: Summary) -> str:
    """One line: how many passed, failed, were skipped whole or in part, and the seconds of all."""
    parts = sum(len(result.skips) for result in summary.results)
    seconds = sum(result.seconds for result in summary.results)
    counts = ", ".join(f"{summary.count(status)} {status}" for status in COLOURS)
    reused = f"; {len(summary.reused)} taken over from the interrupted run" if summary.reused else ""
    return f"{counts}; {parts} parts skipped inside notebooks{reused}; {seconds:.1f} s"


def check_lines(checks: Iterable[Check]) -> Iterator[str]:
    """The doctor's findings: a line for each, and a second one where something is missing or could be better."""
    for check in checks:
        answer = "[green]yes[/]" if check.here else "[red] NO[/]" if check.required else "[yellow] no[/]"
        yield f"{answer}  {check.name}: {safe(check.found)}"
        if check.remedy and not check.here:
            yield f"     it would take: {safe(check.remedy)}"


def progress_table(progress: dict[str, list[tuple[Exercise, bool]]]) -> Table:
    """A learner's exercises by notebook."""
    table = Table("notebook", "exercise", "title", "solved", box=None, pad_edge=False)
    table.columns[2].overflow = "fold"
    for notebook, exercises in progress.items():
        for exercise, done in exercises:
            table.add_row(notebook, exercise.id, exercise.title, "[green]yes[/]" if done else "-")
    return table
