"""What a terminal shows while files are transcribed: a bar with the time left, notes, errors, and the sum of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from labsupport.base.errors import LabError
from labsupport.whisper.files import Outcome
from labsupport.whisper.outputs import show_names

WIDTH = 40  # characters of a name beside the bar


class TerminalWatcher:
    """`files.Watcher` on standard error. The bar is drawn on a terminal alone, and is gone before anything is printed.

    fail: prints an error.
    """

    def __init__(self, console: Console, fail: Callable[[LabError], None]):
        self.console, self.print_error = console, fail
        self.bar: Progress | None = None
        self.step: tuple[str, str] | None = None  # the file and what is done with it

    def note(self, text: str) -> None:
        self.close()
        self.console.print(text, markup=False, highlight=False)

    def fail(self, error: LabError) -> None:
        self.close()
        self.print_error(error)

    def progress(self, file: str, step: str, done: float, total: float | None) -> None:
        if not self.console.is_terminal:
            return
        if self.bar is None or self.step != (file, step):
            self.close()
            self.open(file, step)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, total=total)
        if step == "transcribing" and total is not None and done >= total:
            self.close()

    def open(self, file: str, step: str) -> None:
        """A new bar: the time that is left is guessed from the speed of this step alone."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TaskProgressColumn(),
                   TimeRemainingColumn())  # fmt: skip
        self.step = (file, step)
        self.bar = Progress(*columns, console=self.console, transient=True, redirect_stdout=False)
        self.bar.add_task(f"{step} {file[-WIDTH:]}", total=None)
        self.bar.start()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def summarise(self, files: Sequence[str], outcome: Outcome) -> None:
        """Which files are done, failed and not done, where the work ended early, or one of several failed."""
        self.close()
        if isinstance(outcome.lost, LabError):
            self.fail(outcome.lost)
        done, failed = outcome.done, outcome.failed
        not_done = list_names("; failed: ", failed) + list_names("; not done: ", files[len(done) + len(failed) :])
        if end := why_early(outcome):
            self.note(f"{end} {len(done)} of {len(files)} files done{list_names(': ', done)}{not_done}")
        elif len(files) > 1 and failed:
            self.note(f"{len(done)} of {len(files)} files done{not_done}")


def why_early(outcome: Outcome) -> str:
    """The reason why not all files were tried, "" where all were."""
    if isinstance(outcome.lost, BrokenPipeError):
        return "Nobody reads the output any more."
    return "Stopped." if outcome.interrupted or outcome.lost else ""


def list_names(label: str, files: Sequence[str]) -> str:
    return label + show_names(files) if files else ""
