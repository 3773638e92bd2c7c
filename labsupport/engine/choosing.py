"""`--engine auto`: which engine a command takes, and why: by what the machine has, and by races that it has run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labsupport.checkpoints.resolve import DEFAULT_MODEL
from labsupport.engine.loading import load
from labsupport.engine.race.entrants import DOES_NOT_COUNT, ENTRANTS, GROUP, TIME
from labsupport.machine.backend import FRAMEWORKS, choose_backend, has_accelerator_driver, is_installed
from labsupport.machine.description import name_cpu_machine
from labsupport.results import rows
from labsupport.results.rows import Row
from labsupport.whisper import Transcriber

AUTO = "auto"
MEASURED_ON = ("x86_64", "AMD64")  # processors that the fast engine has been measured on
NEEDS = {"fast": "openvino", "onnx": "onnxruntime"}  # engine -> its package
ENTERED = {f"{TIME}: {each.name}": each.settings["engine"] for each in ENTRANTS if each.is_ours}  # row -> engine


@dataclass(frozen=True)
class Choice:
    engine: str
    reason: str

    def __str__(self) -> str:
        return f"Engine {self.engine}: {self.reason}."


def load_for_command(
    name: str | None, backend: str | None, engine: str, report: Callable[[str], None] = lambda text: None
) -> Transcriber:
    """As `load`, for a command's options: the engine "auto" is what `choose` gives, unless a backend is named.

    Args:
        report: takes why that engine was chosen.
    """
    if engine != AUTO or backend:
        return load(name, backend=backend, engine=None if engine == AUTO else engine)
    choice = choose(name or DEFAULT_MODEL)
    report(str(choice))
    return load(name, engine=choice.engine)


def choose(model: str) -> Choice:
    """For a packaged name, a folder or a hub id.

    What the environment asks for; else the framework of an accelerator; else the fastest in the last race that this
    machine has run with the model, or with any; else the fast engine, where it was ever measured on such a processor.
    """
    if asked := os.environ.get("LAB_BACKEND"):
        return Choice(asked, "LAB_BACKEND asks for it")
    if has_accelerator_driver():
        return Choice(choose_backend(), "this machine has an accelerator")
    able = [engine for engine, package in NEEDS.items() if is_installed(package)]
    able += [framework for framework in FRAMEWORKS if is_installed(framework)]
    if race := find_race(model, able):
        return fastest(race)
    if "fast" in able and platform.machine() in MEASURED_ON:
        return Choice(
            "fast", "no accelerator, and no race between our engines is stored for this machine; `./lab race` holds one"
        )
    if "onnx" in able:
        lack = "OpenVINO is not installed" if "fast" not in able else f"{platform.machine()} was never measured with it"
        return Choice("onnx", f"no accelerator, and the fast engine is out of the question: {lack}")
    return Choice(choose_backend(), "neither OpenVINO nor ONNX Runtime is installed")


def find_race(model: str, able: Sequence[str]) -> list[Row]:
    """The times of one session and clip of this machine, of several of our engines: the model's latest, else any's."""
    stored = rows.read_group(GROUP, name_cpu_machine())
    times = [row for row in stored if ENTERED.get(row.what) in able and DOES_NOT_COUNT not in (row.note or "")]
    for row in sorted(times, key=lambda row: (row.model == model, row.date), reverse=True):
        race = [each for each in times if (each.run_id, each.model, each.clip) == (row.run_id, row.model, row.clip)]
        if len({ENTERED[each.what] for each in race}) > 1:
            return race
    return []


def fastest(race: Sequence[Row]) -> Choice:
    best: dict[str, float] = {}  # of each engine's configurations
    for row in race:
        engine = ENTERED[row.what]
        best[engine] = min(row.number, best.get(engine, row.number))
    ranked = sorted(best, key=best.__getitem__)
    seconds = ", ".join(f"{engine} {best[engine]:.3g} s" for engine in ranked)
    where = f"{race[0].model}, {race[0].clip}, {race[0].date[:10]}"
    return Choice(ranked[0], f"the fastest in this machine's last race ({where}): {seconds}")
