"""What a terminal shows while files are transcribed: a bar with the time left, notes, errors, and the sum of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from labsupport.base.errors import AudioError, LabError
from labsupport.whisper.files import show_name

WIDTH = 40  # characters of a name beside the bar


class TerminalWatcher:
    """`files.Watcher` on standard error. The bar is drawn on a terminal alone, and is gone before anything is printed.

    fail: prints an error.
    """

    def __init__(self, console: Console, fail: Callable[[Exception], None]):
        self.console, self.print_error = console, fail
        self.bar: Progress | None = None

    def note(self, text: str) -> None:
        self.close()
        self.console.print(text, markup=False, highlight=False)

    def fail(self, error: Exception, file: str) -> None:
        self.close()
        self.print_error(error if isinstance(error, LabError) else explain(error, file))

    def progress(self, file: str, done: float, total: float) -> None:
        if not self.console.is_terminal:
            return
        if self.bar is None:
            columns = ("{task.description}", BarColumn(bar_width=24), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True, redirect_stdout=False)
            self.bar.add_task(file[-WIDTH:].replace("[", "\\["), total=total)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def summarise(self, files: int, failed: Sequence[str]) -> None:
        """Which of several files failed."""
        self.close()
        if files > 1 and failed:
            names = ", ".join(show_name(file) for file in failed)
            self.note(f"{files - len(failed)} of {files} files done; failed: {names}")


def explain(error: Exception, file: str) -> LabError:
    """An error of the system, such as a full disk or too little memory, in the words of the lab."""
    if isinstance(error, MemoryError):
        hint = "Cut the sound into shorter files, or close other programs."
        return AudioError("This machine has too little memory for the file.", where=file, hint=hint)
    what = f"The system refused: {getattr(error, 'strerror', None) or error}."
    return AudioError(what, where=file, hint="Look at the disk's room and the permissions.")
