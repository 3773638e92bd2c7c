"""The ladder's rungs differ by one change each, and its rows say what each change gained."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from labsupport.checkpoints.config import SIZES
from labsupport.engine import loading
from labsupport.engine.race import contest, entrants, ladder, ours, results
from labsupport.engine.race.contest import Alone, Contest
from labsupport.engine.race.ladder import SWITCHES
from labsupport.engine.rounding import EXACT, FAST, Rounding
from labsupport.machine.roofline import Roofline
from labsupport.results import rows, worker

LIMITS = Roofline("planted", 10e9, 10e9, {"float32": 1e15})


class Letters:
    def encode(self, text):
        return list(text)


def switched_off(entrant):
    off = set(entrant.settings["off"])
    return off if entrant.settings.get("batch") else off | {"batch"}


def test_each_rung_of_the_engine_switches_one_thing_on():
    engine = [each for each in ladder.rungs() if each.settings["engine"] == "fast"]
    assert switched_off(engine[0]) == set(SWITCHES)
    assert engine[0].name == ladder.GRAPHS
    for name, (before, after) in zip(SWITCHES, pairwise(engine), strict=True):
        assert switched_off(before) - switched_off(after) == {name}
        assert after.name == f"+ {SWITCHES[name]}"
    assert switched_off(engine[-1]) == set()
    assert engine[-1].name == ladder.WHOLE


def test_an_ablation_lacks_one_thing_of_the_whole():
    assert [switched_off(each) for each in ladder.ablations()] == [{name} for name in SWITCHES]
    names = [each.name for each in (*ladder.rungs(), *ladder.ablations())]
    assert len(names) == len(set(names))


def test_mindspore_has_a_ladder_of_its_own(monkeypatch):
    monkeypatch.setattr(ladder, "choose_backend", lambda: "mindspore")
    assert [each.name for each in ladder.rungs()] == list(ladder.MINDSPORE)
    assert {each.settings["engine"] for each in ladder.rungs()} == {"mindspore"}
    assert ladder.ablations() == []


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((), (FAST, True)),
        (("short_context",), (FAST, False)),
        (("cache", "bfloat16"), (Rounding(bfloat16=False, cache=False), True)),
        (tuple(SWITCHES), (EXACT, False)),
    ],
)
def test_what_is_off_is_off_in_the_engine(monkeypatch, off, expected):
    monkeypatch.setattr(loading, "load_fast", lambda name, *how: (name, *how))
    assert ours.load("base", "fast", 2, off) == ("base", *expected)


def test_compiled_means_a_static_cache(monkeypatch):
    from labsupport.optim.kv_cache import StaticCache

    monkeypatch.setattr(loading, "load", lambda name, **how: how)
    assert ours.load("base", "torch", 1, compiled=True) == {
        "engine": "torch", "device": "cpu", "compiled": True, "cache": StaticCache,
    }  # fmt: skip
    assert ours.load("base", "onnx", 1) == {"engine": "onnx"}
    assert ours.load("base", "mindspore", 1, compiled=False) == {"engine": "mindspore", "compiled": False}
    assert ours.load("base", "mindspore", 1, compiled=True)["cache"] is StaticCache


def test_each_rung_s_process_computes_with_its_own_framework(monkeypatch, checkpoint, tmp_path):
    """A process has one: what it imports first, such as a cache, would choose another."""
    started = {}
    monkeypatch.setattr(worker, "start", lambda name, *order, backend, **how: started.update({name: backend}))
    monkeypatch.setattr(contest, "find_form", lambda *form: SimpleNamespace(folder=tmp_path))
    start = contest.Starter(checkpoint, [], tmp_path, 1)
    for entrant in [*ladder.rungs(), *(entrants.ours(name, "mindspore") for name in ladder.MINDSPORE)]:
        start(entrant)
    own = {each.name: "torch" for each in ladder.rungs()} | dict.fromkeys(ladder.MINDSPORE, "mindspore")
    assert started == own


@pytest.fixture
def outcome(sound):
    """Rungs that each take half the time of the one before; one did not finish."""
    entrants = [each for each in (*ladder.rungs(), *ladder.ablations()) if each.name != "torch, fused attention"]
    contest = Contest(sound)
    for number, each in enumerate(entrants):
        seconds = 64.0 * 0.5**number if number < 11 else 0.5
        contest.times[each.name] = [(seconds * noise, seconds) for noise in (1, 1.01, 0.99)]
        contest.answers[each.name] = [{"texts": sound.texts, "tokens": None}] * 3
        contest.alone[each.name] = Alone(1.0, 1.0, 1, 1, 1)
    return results.judge(contest, entrants, Letters(), SIZES["tiny.en"], LIMITS)


def test_rows_say_what_each_change_gained(outcome):
    ladder.record(outcome, "tiny.en")
    stored = {row.what: row for row in rows.read_rows(rows.results_dir())}
    gains = {what.removeprefix("gain: "): row.value for what, row in stored.items() if what.startswith("gain")}
    assert ladder.rungs()[0].name not in gains
    climbed = [each.name for each in ladder.rungs()[2:]]  # the one that did not finish is stepped over
    assert {name: gains[name] for name in climbed} == pytest.approx(dict.fromkeys(climbed, 2.0))
    whole = 64.0 * 0.5**10
    assert {each.name: gains[each.name] for each in ladder.ablations()} == pytest.approx(
        {each.name: 0.5 / whole for each in ladder.ablations()}
    )
    row = stored["gain: + short windows"]
    assert row.low <= 2 <= row.high
    assert (row.model, row.clip, row.unit) == ("tiny.en", outcome.contest.sound.name, "times")
    assert stored["word error rate, change: + short windows"].value == 0
