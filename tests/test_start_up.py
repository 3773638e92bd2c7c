"""What the commands import, each in a fresh process: a start is as long as its imports."""

from __future__ import annotations

import json

import pytest
from fresh_process import run_python

from labsupport import whisper
from labsupport.base.paths import ROOT
from labsupport.machine.backend import is_installed

CLIP = str(ROOT / "data" / "audio" / "jfk.flac")
NUMERIC = {"numpy", "scipy", "torch", "mindspore", "onnx", "onnxruntime", "transformers", "tokenizers", "soundfile"}
COMPILERS = {"torch._dynamo", "torch._inductor", "sympy"}
UNUSED = {"transformers", "scipy", "matplotlib", "pandas", "jiwer", "onnx", "onnxscript", "huggingface_hub"}

COMMAND = """
import json, sys
{plant}
from labsupport import cli
sys.argv = ["lab", *{argv}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""
EVERY_HELP = """
import json, sys
import typer
from labsupport import cli

def show_help(command, *names):
    everything.main([*names, "--help"], standalone_mode=False)
    imported[" ".join(names)] = sorted(sys.modules)
    for name, child in getattr(command, "commands", {}).items():
        show_help(child, *names, name)

imported, everything = {}, typer.main.get_command(cli.app)
show_help(everything)
print(json.dumps(imported))
"""
BUILD = """
import json, sys
from small_whisper import SMALL
from labsupport.whisper import torch_model
{plant}
torch_model.load_model(SMALL)
print(json.dumps(sorted(sys.modules)))
"""


def last_line(printed: str):
    return json.loads(printed.splitlines()[-1])


def modules_after(*argv: str, plant: str = "") -> set[str]:
    """The modules that a command of the lab has imported; `plant` runs before it."""
    return set(last_line(run_python(COMMAND.format(plant=plant, argv=argv))))


def build_small(plant: str = "") -> set[str]:
    return set(last_line(run_python(BUILD.format(plant=plant), PYTHONPATH=f"{ROOT}:{ROOT}/tests/helpers")))


def test_no_help_imports_numbers_or_a_framework():
    imported = last_line(run_python(EVERY_HELP))
    assert {"", "transcribe", "bench", "bench engines"} <= imported.keys()
    assert {name: found for name, modules in imported.items() if (found := NUMERIC.intersection(modules))} == {}


def test_an_import_planted_in_a_command_is_seen():
    assert NUMERIC & modules_after("--version", plant="import numpy") == {"numpy"}


OPENING = "import labsupport; from labsupport.speech.segments import open_network; open_network()"


def test_onnx_runtime_sends_nothing_to_its_makers(monkeypatch, tmp_path):
    """Where it does, it leaves a session's number in the temporary folder."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    run_python(OPENING, TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["labsupport", "sys"])
def test_openvino_imports_what_tells_its_makers_only_where_the_lab_is_not_there(tmp_path, first):
    (tmp_path / "openvino_telemetry.py").write_text("print('imported'); raise ImportError")  # the real one would send
    said = run_python(f"import {first}; import openvino", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ("imported" in said) == (first == "sys")


@pytest.mark.slow
def test_a_model_is_built_without_torchs_compiler():
    assert not COMPILERS & build_small()


@pytest.mark.slow
def test_torchs_own_initialisation_is_seen_to_import_its_compiler():
    assert {"torch._dynamo", "sympy"} <= build_small(plant="del torch_model.Embedding.reset_parameters")


@pytest.mark.weights
def test_a_transcription_with_torch_imports_no_compiler():
    imported = modules_after("transcribe", CLIP, "--model", "tiny.en", "--engine", "torch")
    assert "torch" in imported
    assert not (COMPILERS | UNUSED | {"mindspore"}) & imported


@pytest.mark.weights
@pytest.mark.parametrize("option", [(), ("--engine", "onnx")])
def test_a_transcription_on_a_cpu_with_graphs_imports_no_framework(monkeypatch, option):
    monkeypatch.delenv("LAB_BACKEND", raising=False)
    whisper.load("tiny.en", engine="onnx")  # builds the graphs, where they are not in the cache
    without_driver = "from labsupport.machine import backend; backend.has_accelerator_driver = lambda: False"
    imported = modules_after("transcribe", CLIP, "--model", "tiny.en", *option, plant=without_driver)
    assert "onnxruntime" in imported
    assert not (COMPILERS | UNUSED | {"torch", "mindspore"}) & imported


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.skipif(not is_installed("mindspore"), reason="MindSpore is not installed")
def test_a_fresh_process_computes_with_the_framework_asked_for(monkeypatch):
    monkeypatch.delenv("LAB_BACKEND", raising=False)
    imported = modules_after("transcribe", CLIP, "--model", "tiny.en", "--beams", "1", "--backend", "mindspore")
    assert "mindspore" in imported
    assert "torch" not in imported
