"""Workers of a corpus without a model, and, run as a program, a corpus that takes its time.

Ray's processes cannot import the tests: what is here goes to them by value.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from labsupport.scaling import corpus
from labsupport.scaling.parts import schema
from labsupport.scaling.worker import Settings, Worker, describe_file, find_hash
from labsupport.scaling.worker import load as load_model

SETTINGS = Settings("tiny.en")
SECONDS = 0.2  # that a row takes


class QuickWorker(Worker):
    """Says the content of each file; "once" and "always" in it end the process: the first time, or each time."""

    def make_row(self, file):
        content = Path(file).read_text()
        marker = Path(file).with_name(f".{Path(file).name}.died")  # hidden: no part of the corpus
        if "always" in content or ("once" in content and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SECONDS)
        row = dict.fromkeys(schema().names) | {"text": content, "notes": [], "duration": 1.0}
        own = {"options": self.settings.digest, "worker": str(os.getpid()), "sha256": find_hash(file)}
        return row | own | describe_file(file)


class CountingWorker(Worker):
    """Leaves a line beside the model's files for each time that it loads one."""

    def __init__(self, settings, log):
        super().__init__(settings)

        def load():
            with open(log, "a") as file:
                file.write(f"{os.getpid()}\n")
            return load_model(settings)

        self.work.load = load


class Silent:
    """A reporter that stores what it is told."""

    def __init__(self):
        self.notes, self.shown = [], []

    def note(self, text):
        self.notes.append(text)

    def progress(self, summary, written):
        self.shown.append((summary.done, written))


def write_sounds(folder, count, **contents):
    """So many files 00.wav, 01.wav, ...; `contents` by name: what stands in others."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:02}.wav").write_text(f"text {number}")
    for name, content in contents.items():
        (folder / f"{name}.wav").write_text(content)
    return folder


def main(source: str, output: str, address: str | None = None) -> None:
    """A corpus of quick workers, each row in a part of its own; ends as the command does."""
    from labsupport.machine.stop_signals import StopSignals

    corpus.ROWS, pool = 1, corpus.Pool(2, address=address)
    with StopSignals() as stop:
        summary = corpus.transcribe_corpus(source, output, SETTINGS, Silent(), stop, pool, worker=QuickWorker)
    sys.exit(stop.exit_code if summary.interrupted else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
