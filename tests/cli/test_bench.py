"""`lab bench`: its list, and what each benchmark is given."""

import importlib
import re

import pytest
from lab_command import invoke

from labsupport.base.paths import ROOT

TIMED = (
    "kv_caches", "graph_rewrites", "engines", "engine_pieces", "twins", "quantization", "long_audio", "serving",
    "bark_attention",
)  # fmt: skip


BENCHMARKS = (*TIMED, "bark", "invented_text")


def test_bench_lists_every_benchmark_with_a_line():
    shown = invoke("bench").output
    assert all(re.search(rf"{name} +[A-Za-z]", shown) for name in BENCHMARKS)
    modules = {path.stem for path in (ROOT / "labsupport" / "benchmarks").glob("*.py")}
    parts = {"bark_batches", "serving_article", "serving_clients"}
    assert modules - set(BENCHMARKS) == {"__init__", "noises", *parts}


@pytest.mark.parametrize("name", TIMED)
def test_bench_passes_on_model_runs_and_clip(monkeypatch, name):
    given = []
    module = importlib.import_module(f"labsupport.benchmarks.{name}")
    monkeypatch.setattr(module, "run", lambda *arguments: given.extend(arguments))
    assert invoke("bench", name, "--model", "small", "--runs", "3", "--clip", "narration").exit_code == 0
    assert {"small", 3, "narration"} <= set(given)
    assert invoke("bench", name, "--runs", "0").exit_code == 2


@pytest.mark.parametrize("name", ["engines", "kv_caches", "bark_attention"])
def test_an_unknown_clip_is_told_before_a_model_is_loaded(monkeypatch, name):
    module = importlib.import_module(f"labsupport.benchmarks.{name}")
    monkeypatch.setattr(module, "run", lambda *arguments: pytest.fail("it has begun"))
    error = invoke("bench", name, "--clip", "nope").exception
    assert "There is no clip called 'nope'" in str(error)
    assert "jfk" in str(error)
