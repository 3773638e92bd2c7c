"""What a terminal or a log shows while a corpus is transcribed, and the sum of it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from labsupport.scaling.corpus import Summary


class CorpusProgress:
    """`corpus.Reporter` on a console: a bar on a terminal, elsewhere a line for each part that is written."""

    def __init__(self, console: Console):
        self.console = console
        self.bar: Progress | None = None

    def __enter__(self) -> CorpusProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def progress(self, summary: Summary, written: bool) -> None:
        done = summary.before + summary.done
        if self.console.is_terminal:
            self.open(summary).update(self.task, completed=done, failed=show_failed(summary))
        elif written:
            self.note(f"{done} of {summary.files} files{show_failed(summary)}")

    def open(self, summary: Summary) -> Progress:
        """The bar, made when the first row comes: until then there is no speed to guess a time from."""
        if self.bar is None:
            columns = ("files", BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"),
                       TimeRemainingColumn())  # fmt: skip
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", total=summary.files, completed=summary.before, failed="")
            self.bar.start()
        return self.bar


def show_failed(summary: Summary) -> str:
    return f", {summary.failed} failed" if summary.failed else ""


def summarise(summary: Summary) -> str:
    """One line on what became of the corpus."""
    begin = "Stopped. " if summary.interrupted else ""
    before = f", {summary.before} of them before" if summary.before else ""
    waiting = f"; {summary.waiting} wait for the next call" if summary.waiting else ""
    speed = f"; {summary.speech / 60:.1f} minutes of sound in {summary.seconds / 60:.1f}" if summary.done else ""
    done = summary.before + summary.done
    return f"{begin}{done} of {summary.files} files have a row{before}{show_failed(summary)}{waiting}{speed}."
