"""What a terminal shows while files are transcribed: a bar with the time left, notes, errors, and the sum of it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from labsupport.base.errors import LabError
from labsupport.whisper.files import Outcome
from labsupport.whisper.outputs import show_name

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

    def summarise(self, files: int, outcome: Outcome) -> None:
        """Which of several files failed, or which were done when Ctrl-C came."""
        self.close()
        count = f"{len(outcome.done)} of {files} files done"
        if outcome.interrupted:
            self.note(f"Stopped. {count}{list_names(': ', outcome.done)}{list_names('; failed: ', outcome.failed)}")
        elif files > 1 and outcome.failed:
            self.note(f"{count}{list_names('; failed: ', outcome.failed)}")


def list_names(label: str, files: list[str]) -> str:
    return label + ", ".join(show_name(file) for file in files) if files else ""
