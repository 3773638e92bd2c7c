"""What `./lab test` runs: checks of the code, pytest once for each framework, and the notebooks' stored outputs.

A process has one backend, so tests of two frameworks need two sessions of pytest. torch's session takes the notebooks
too, executed by nbval, which compares what they show; MindSpore's executes a random quarter of those that are written
for it, by papermill (tests/course/test_notebooks.py); the soak tests execute all of them.

Tests come in three tiers: "quick" ones, "all" but those that take minutes each, and these, "soak", alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from labsupport.base.errors import NotAvailable
from labsupport.base.paths import ROOT
from labsupport.base.tables import text_table
from labsupport.course import runner
from labsupport.machine import children, doctor, os_info
from labsupport.machine.backend import FRAMEWORKS

Tier = Literal["quick", "all", "soak"]
GIB = 2**30
PROCESS_BYTES = 8 * GIB  # what one process of all tests may take: MindSpore's does
QUICK_BYTES = 3 * GIB  # of the quick ones, which load no packaged model
NBVAL = (
    "-p",
    "labsupport.course.nbval_kernels",
    "--nbval",
    "--nbval-current-env",
    "--nbval-cell-timeout=300",
    f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}",
)
SIDE_BY_SIDE = ("--dist", "loadfile", "--no-loadscope-reorder")  # the cells of a notebook share a kernel
TIERS: dict[Tier, tuple[str, ...]] = {
    "quick": ("-m", "not slow and not weights"),
    "all": (),  # tests/conftest.py leaves out, and counts, what is marked soak
    "soak": ("-m", "soak"),
}
NO_TESTS = 5  # pytest's exit code when its options leave nothing to run
SLOWEST = 20  # tests in the table of durations
CHECKS = {  # name -> the module that it needs, and Python's arguments
    "style": ("ruff", ("-m", "ruff", "check", ".")),
    "format": ("ruff", ("-m", "ruff", "format", "--check", ".")),
    "imports": ("importlinter", ("-c", "from importlinter.cli import lint_imports_command as main; main()")),
    "types": ("mypy", ("-m", "mypy")),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """One call of pytest: the framework that its process computes with, and what it is given."""

    backend: str
    arguments: tuple[str, ...]


def run(arguments: Sequence[str], tier: Tier, durations: bool, say: Say) -> bool:
    """Runs the checks beside the sessions of pytest; whether all of it passed.

    Args:
        arguments: more for pytest; paths among them take the place of all tests and notebooks.
        tier: "quick": torch's tests alone, without the slow ones, those with packaged weights, and the notebooks;
            "all": all but the soak tests; "soak": these alone, on both frameworks.
        durations: print where the time went.
        say: prints a line.

    Raises:
        NotAvailable: the dependency group `test` is not installed.
    """
    if importlib.util.find_spec("nbval") is None:  # pytest alone comes with MindNLP
        hint = "`./lab test` installs it; a prepared environment needs `pip install --group test`."
        raise NotAvailable("The tests need the dependency group `test`.", hint=hint)
    options, environment = split_work(bool(find_paths(arguments)), tier)
    options += [*NBVAL, *TIERS[tier]]
    with ThreadPoolExecutor(len(CHECKS)) as pool, tempfile.TemporaryDirectory() as home:
        checks = {name: pool.submit(run_check, *check) for name, check in CHECKS.items()}
        # A test's results are nobody's results: they must not land among the learner's own.
        environment |= {"LAB_HOME": home}
        codes = []
        try:
            for session in plan_sessions(arguments, tier, say):
                report = Path(home) / f"{session.backend}.xml"
                code = run_session(session, [*options, f"--junitxml={report}"], environment)
                may_be_none = arguments or (tier == "soak" and session.backend == "mindspore")
                codes.append(0 if code == NO_TESTS and may_be_none else code)
                if durations and report.exists():
                    say(duration_tables(session.backend, read_durations(report.read_text(encoding="utf-8"))))
            results = {name: check.result() for name, check in checks.items()}
        except KeyboardInterrupt:  # else the checks, in their threads, would be waited for
            children.end_descendants()
            raise
    for name, (code, output) in results.items():
        say(f"{name}: {'ok' if code == 0 else 'FAILED'}" + (f"\n{output}" if code or "skipped" in output else ""))
    return not any([*codes, *(code for code, _ in results.values())])


def run_check(module: str, command: tuple[str, ...]) -> tuple[int, str]:
    """A check's exit code and what it printed; 0 and the reason where its tool has no release for this Python."""
    if importlib.util.find_spec(module) is None:
        return 0, f"skipped: {module} is not installed"
    whole = children.guarded([sys.executable, *command])
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def run_session(session: Session, options: Sequence[str], environment: dict[str, str]) -> int:
    """pytest's exit code."""
    command = children.guarded([sys.executable, "-m", "pytest", *options, *session.arguments])
    variables = {**os.environ, **environment, "LAB_BACKEND": session.backend}
    variables.pop("PYTHONSAFEPATH", None)  # tests plant modules in folders, and start processes there
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


# --- what runs where --------------------------------------------------------------------------------------------------


def split_work(named: bool, tier: Tier) -> tuple[list[str], dict[str, str]]:
    """pytest's options and the environment that run tests side by side, with one thread each.

    Two threads of one computation wait for each other at the end of every operation. Where the system takes one of
    two cores away for a moment, both stand still: on a shared machine, the same decoding then takes now a moment, now
    many times as long. Two processes of one thread lose only what is taken. Tests that are `named` run alone, with all
    cores.
    """
    needed = QUICK_BYTES if tier == "quick" else PROCESS_BYTES
    workers = min(os_info.usable_cores(), os_info.usable_memory() // needed)
    if workers < 2 or named:
        return [], {}
    return ["-n", str(workers), *SIDE_BY_SIDE], {"OMP_NUM_THREADS": "1"}


def plan_sessions(arguments: Sequence[str], tier: Tier, say: Say) -> list[Session]:
    """The sessions of pytest; says which of MindSpore's and which notebooks cannot run here, and why."""
    named = find_paths(arguments)
    options = [argument for argument in arguments if argument not in named]
    if named:
        paths = {backend: [path for path in named if backend in backends_of(path)] for backend in FRAMEWORKS}
    else:
        # The notebooks take longest: they come first, so that no process waits for another at the end.
        paths = {"torch": [*(comparable_notebooks(say) if tier == "all" else ()), "tests"]}
        paths["mindspore"] = [] if tier == "quick" else ["tests"]
    if paths["mindspore"] and (reason := doctor.missing("mindspore")):
        say(f"MindSpore's tests did not run: {reason}")
        paths["mindspore"] = []
    return [Session(backend, (*paths[backend], *options)) for backend in FRAMEWORKS if paths[backend]]


def find_paths(arguments: Iterable[str]) -> list[str]:
    """The paths of tests and notebooks among pytest's arguments."""
    return [argument for argument in arguments if Path(argument).parts[:1] in {("tests",), ("notebooks",)}]


def backends_of(path: str) -> set[str]:
    """The frameworks whose session runs this file, folder or node id of tests; a notebook is compared on torch."""
    place = ROOT / path.split("::")[0]
    files = sorted(place.rglob("test_*.py")) if place.is_dir() else [place]
    texts = [file.read_text(encoding="utf-8") if file.suffix == ".py" and file.exists() else "" for file in files]
    return set().union(*map(marked_backends, texts))


def marked_backends(text: str) -> set[str]:
    """The frameworks of a test file, by the markers in its text: torch, unless it says otherwise."""
    if "pytest.mark.both_backends" in text:
        return set(FRAMEWORKS)
    return {"mindspore" if "pytest.mark.mindspore" in text else "torch"}


def comparable_notebooks(say: Say) -> Iterator[str]:
    """The notebooks that can run here, the longest for a learner first; says which are left out, and why."""

    def minutes(path: Path) -> int:
        return runner.read(path)["metadata"].get("lab", {}).get("minutes", 0)

    for path in sorted(runner.find_notebooks(), key=minutes, reverse=True):
        _, reason = runner.backend_for(runner.read(path), "torch")
        if reason:
            say(f"not compared with its stored output: {path.name}: {reason}")
        else:
            yield str(path.relative_to(ROOT))


# --- where the time went ----------------------------------------------------------------------------------------------


def read_durations(report: str) -> dict[tuple[str, str], float]:
    """(file, test) -> seconds with its set-up and clean-up, from pytest's report in JUnit's XML."""
    cases = ElementTree.fromstring(report).iter("testcase")
    return {(case.get("classname", ""), case.get("name", "")): float(case.get("time", 0)) for case in cases}


def duration_tables(backend: str, durations: dict[tuple[str, str], float]) -> str:
    """The files of a session by their seconds, then its slowest tests."""
    files: dict[str, list[float]] = {"all": list(durations.values())}
    for (file, _), seconds in durations.items():
        files.setdefault(file, []).append(seconds)
    by_file = sorted(files.items(), key=lambda item: sum(item[1]), reverse=True)
    slowest = sorted(durations.items(), key=lambda item: item[1], reverse=True)[:SLOWEST]
    tables = [
        [["file", "tests", "seconds"], *([file, str(len(each)), f"{sum(each):.1f}"] for file, each in by_file)],
        [["slowest test", "seconds"], *([f"{file}: {test}", f"{s:.1f}"] for (file, test), s in slowest)],
    ]
    return f"\nWhere {backend}'s session spent its time\n\n" + "\n\n".join(map(text_table, tables)) + "\n"
