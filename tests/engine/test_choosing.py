"""`--engine auto` takes what was asked for, what the machine has, or what was fastest in a race on it."""

from __future__ import annotations

import json

import pytest

from labsupport.base.paths import DATA
from labsupport.engine import choosing
from labsupport.engine.choosing import ENTERED, Choice, choose
from labsupport.machine.description import describe_machine, name_cpu_machine
from labsupport.results import rows

MACHINE = "a-cpu-2c"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """A CPU on which every engine is installed, with an empty folder of results."""
    monkeypatch.delenv("LAB_BACKEND", raising=False)
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "own"))
    monkeypatch.setattr(rows, "REFERENCE", tmp_path / "reference")
    for name, replacement in {
        "has_accelerator_driver": lambda: False, "is_installed": lambda package: True,
        "name_cpu_machine": lambda: MACHINE, "choose_backend": lambda: "torch",
    }.items():  # fmt: skip
        monkeypatch.setattr(choosing, name, replacement)
    monkeypatch.setattr(choosing.platform, "machine", lambda: "x86_64")
    return monkeypatch


def without(*packages):
    return lambda package: package not in packages


def write_race(folder, times, model="base", session="1", date="2026-11-01", clip="jfk", notes=()):
    path = folder / MACHINE / "race.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for name, seconds in times.items():
            content = {
                "schema": 3, "what": f"transcription: {name}", "value": seconds, "unit": "s", "machine": MACHINE,
                "backend": "torch", "date": f"{date}T10:00:00+00:00", "commit": "1", "model": model, "clip": clip,
                "run_id": session, "note": dict(notes).get(name, "ours"),
            }  # fmt: skip
            file.write(json.dumps(content) + "\n")


def test_the_environments_word_comes_first(cpu):
    cpu.setenv("LAB_BACKEND", "mindspore")
    cpu.setattr(choosing, "has_accelerator_driver", lambda: True)
    assert choose("base").engine == "mindspore"
    cpu.delenv("LAB_BACKEND")
    assert choose("base").engine == "torch"
    assert "accelerator" in choose("base").reason


@pytest.mark.parametrize(
    ("missing", "machine", "engine", "reason"),
    [
        ((), "x86_64", "fast", "lab race"),
        ((), "AMD64", "fast", "is stored for this machine"),
        ((), "aarch64", "onnx", "aarch64 was never measured"),
        (("openvino",), "x86_64", "onnx", "OpenVINO is not installed"),
        (("openvino", "onnxruntime"), "x86_64", "torch", "neither"),
    ],
)
def test_without_a_race_it_goes_by_what_is_installed(cpu, missing, machine, engine, reason):
    cpu.setattr(choosing, "is_installed", without(*missing))
    cpu.setattr(choosing.platform, "machine", lambda: machine)
    assert choose("base").engine == engine
    assert reason in choose("base").reason


@pytest.mark.parametrize("folder", ["own", "reference"])
def test_the_fastest_in_this_machines_race_is_taken_by_its_best_configuration(cpu, tmp_path, folder):
    times = {
        "ours, torch": 3.0,
        "ours, torch, batch 4": 1.0,
        "ours, onnx": 2.0,
        "ours, fast": 1.5,
        "openai-whisper": 0.1,
    }
    write_race(tmp_path / folder, times)
    choice = choose("base")
    assert choice.engine == "torch"
    assert choice.reason.endswith("(base, jfk, 2026-11-01): torch 1 s, fast 1.5 s, onnx 2 s")


def test_the_models_own_race_counts_before_a_later_one_of_another(cpu, tmp_path):
    write_race(tmp_path / "own", {"ours, onnx": 1.0, "ours, fast": 2.0})
    write_race(
        tmp_path / "own", {"ours, onnx": 2.0, "ours, fast": 1.0}, model="tiny.en", session="2", date="2026-11-02"
    )
    assert choose("base").engine == "onnx"
    assert choose("tiny.en").engine == "fast"
    assert choose("large-v3").engine == "fast"  # the latest of any


def test_a_later_race_replaces_an_earlier_one_and_sessions_are_not_mixed(cpu, tmp_path):
    write_race(tmp_path / "own", {"ours, onnx": 0.5, "ours, fast": 2.0})
    write_race(tmp_path / "own", {"ours, onnx": 5.0, "ours, fast": 3.0}, session="2", date="2026-11-02")
    write_race(
        tmp_path / "own", {"ours, torch": 0.1}, session="3", date="2026-11-03"
    )  # it raced against no other of ours
    assert choose("base").engine == "fast"


def test_who_did_not_do_the_work_or_is_not_installed_is_not_taken(cpu, tmp_path):
    write_race(
        tmp_path / "own", {"ours, fast": 0.1, "ours, onnx": 2.0, "ours, torch": 1.0},
        notes={"ours, fast": "ours; does not count: it skipped words"},
    )  # fmt: skip
    assert choose("base").engine == "torch"
    cpu.setattr(choosing, "is_installed", without("torch"))
    assert choose("base").engine == "fast"  # no race of two is left


def test_a_damaged_file_of_results_is_no_obstacle(cpu, tmp_path):
    write_race(tmp_path / "own", {"ours, onnx": 1.0, "ours, fast": 2.0})
    with (tmp_path / "own" / MACHINE / "race.jsonl").open("a") as file:
        file.write('{"what": 3}\nno json\n')
    assert choose("base").engine == "onnx"


def test_stored_races_name_our_engines_as_this_module_knows_them():
    stored = [row for path in DATA.glob("results/*/race.jsonl") for row in rows.read_file(path)]
    ours = {row.what for row in stored if row.what.startswith("transcription: ours")}
    assert ours
    assert ours <= set(ENTERED)


def test_a_machine_without_accelerators_has_the_name_of_its_processor():
    machine = describe_machine()
    assert machine.name.startswith(name_cpu_machine())
    assert (machine.name == name_cpu_machine()) == (not machine.accelerators)


@pytest.mark.parametrize(
    ("backend", "engine", "expected"),
    [("torch", "auto", ("torch", None)), (None, "onnx", (None, "onnx")), ("torch", "fast", ("torch", "fast"))],
)
def test_what_an_option_names_is_loaded_and_nothing_is_chosen(monkeypatch, backend, engine, expected):
    said = []
    monkeypatch.setattr(choosing, "load", lambda name, backend, engine: (backend, engine))
    monkeypatch.setattr(choosing, "choose", None)
    assert choosing.load_for_command("base", backend, engine, said.append) == expected
    assert said == []


def test_auto_loads_what_is_chosen_for_the_model_and_says_why(monkeypatch):
    said = []
    monkeypatch.setattr(choosing, "load", lambda name, engine: (name, engine))
    monkeypatch.setattr(choosing, "choose", lambda model: Choice(f"best for {model}", "it is"))
    assert choosing.load_for_command(None, None, "auto", said.append) == (None, "best for tiny.en")
    assert said == ["Engine best for tiny.en: it is."]
