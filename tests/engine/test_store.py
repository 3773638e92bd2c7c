"""Compiled graphs are built once, again where they are damaged, and anew for another processor or version."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from small_whisper import SMALL

from labsupport.base.cached_folder import find_damage
from labsupport.engine import store
from labsupport.engine.model import Whisper
from labsupport.engine.rounding import EXACT, FAST
from labsupport.engine.store import BUILDERS, HERE, calibration_windows, find_compiled, open_graphs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Its own cache, and windows as short as the small model's."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    mels = np.random.default_rng(0).normal(size=(2, 80, 60)).astype(np.float32)
    monkeypatch.setattr(store, "calibration_windows", lambda config: iter(mels))
    return tmp_path


def count_builds(caplog) -> int:
    return sum("Compiling" in record.message for record in caplog.records)


def test_graphs_are_built_once_and_again_where_one_is_damaged(caplog):
    caplog.set_level(logging.INFO)
    assert find_damage(store.locate(SMALL))
    folder = find_compiled(SMALL)
    assert find_damage(store.locate(SMALL)) is None
    names = {"encoder", "decoder", "alignment", "cross_kv"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.blob" for name in names} | {"manifest.json"}
    assert find_compiled(SMALL) == folder
    assert count_builds(caplog) == 1
    (folder / "encoder.blob").write_bytes(b"damaged")
    assert find_damage(folder) == "encoder.blob has changed"
    model = Whisper(SMALL.config, open_graphs(find_compiled(SMALL)))
    assert count_builds(caplog) == 2
    assert np.isfinite(model.encode(np.zeros((1, 80, 60), np.float32))).all()


def test_a_graph_is_read_once():
    graphs = open_graphs(find_compiled(SMALL))
    assert graphs("decoder") is graphs("decoder")


@pytest.mark.parametrize("part", [0, 1, -1])
def test_another_version_processor_or_ability_has_its_own(monkeypatch, part):
    first, described = store.locate(SMALL), store.describe_runtime()
    described[part] += " of another kind"
    monkeypatch.setattr(store, "describe_runtime", lambda: described)
    assert store.locate(SMALL) != first


def test_each_rounding_has_its_own():
    assert len({store.locate(SMALL, each) for each in (EXACT, FAST, replace(FAST, cache=False))}) == 3


def test_those_of_earlier_code_are_removed(cache):
    old = cache / "engine" / SMALL.name / "01234567-89abcdef"
    old.mkdir(parents=True)
    assert find_compiled(SMALL).is_dir()
    assert not old.exists()


def test_the_hash_is_of_all_modules_that_build():
    left_out = {"__init__", "choosing", "loading", "model", "step_cache"}
    assert {path.stem for path in HERE.glob("*.py")} == {*BUILDERS, *left_out}


def test_calibration_is_on_windows_full_of_speech():
    windows = list(calibration_windows(SMALL.config))
    assert [window.shape for window in windows] == [(80, 3000)] * 4
    assert all((np.abs(np.diff(window[:, -200:], axis=1)).max() > 0.1) for window in windows)  # to the end
