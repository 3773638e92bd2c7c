"""What a contest of planted times and texts says: ranking, faults, ratios with intervals, rows, a plot."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from planted_engines import planted

from labsupport.checkpoints.config import SIZES
from labsupport.engine.race import results
from labsupport.engine.race.contest import Alone, Contest
from labsupport.engine.race.entrants import ours
from labsupport.engine.race.ours import encoder_flops
from labsupport.machine.roofline import Roofline
from labsupport.optim.kv_cache import step_bytes
from labsupport.results import rows
from labsupport.results.load import Load

CONFIG = SIZES["tiny.en"]
LIMITS = Roofline("planted", 10e9, 10e9, {"float32": 100e9, "int8": 1e12})


class Letters:
    """A tokenizer for which a token is a letter."""

    def encode(self, text):
        return list(text)


@pytest.fixture
def held(sound):
    """Three entrants in four rounds: a reference, one twice as fast, and one ten times that drops the second half."""
    text = sound.texts[0]
    half = " ".join(text.split()[: len(text.split()) // 2])
    contest = Contest(sound, load=Load(0.1, 0.2))
    times = {
        "reference": [4.0, 4.2, 4.1, 4.0], "ours": [2.0, 2.1, 2.0, 2.1], "skips": [0.4, 0.4, 0.41, 0.4],
    }  # fmt: skip
    for name, walls in times.items():
        contest.times[name] = [(wall, 1.5 * wall) for wall in walls]
        contest.answers[name] = [{"texts": [half if name == "skips" else text], "tokens": 300}] * 4
        contest.alone[name] = Alone(1.0, 5.0, 300_000_000, 400_000_000, 75_000_000)
    contest.errors["absent"] = "planted: no such library"
    return contest


@pytest.fixture
def entrants():
    return [planted("reference"), ours("ours", "torch"), planted("skips"), planted("absent")]


def judge(held, entrants, limits=LIMITS):
    return results.judge(held, entrants, Letters(), CONFIG, limits)


def test_a_skipper_never_wins_however_fast_it_is(held, entrants):
    outcome = judge(held, entrants)
    assert [each.entrant.name for each in outcome.ranking] == ["ours", "reference"]
    assert "word error rate" in outcome.find("skips").fault
    said = "\n".join(results.remarks(outcome, 2))
    assert re.search(r"The fastest: ours. As fast as the next, reference: 2\.\d+ times \(1\.\d+ to 2\.\d+\)", said)
    assert "Does not count: skips: its word error rate" in said
    assert "Did not finish: absent: planted: no such library" in said
    lines = results.time_table(outcome).splitlines()
    assert [line.split()[0] for line in lines] == ["entrant", "ours", "reference", "skips"]
    assert "300" in results.cost_table(outcome)


def test_one_that_skips_in_a_single_round_is_found(held, entrants):
    held.answers["ours"] = [*held.answers["reference"][:3], held.answers["skips"][0]]
    assert [each.entrant.name for each in judge(held, entrants).ranking] == ["reference"]


def test_one_that_repeats_its_first_answer_without_work_is_found_by_its_time(held, entrants):
    held.times["ours"][2] = (1e-4, 1e-4)
    fault = judge(held, entrants).find("ours").fault
    assert "the encoder's arithmetic alone takes" in fault


def test_the_reference_is_the_first_that_finished_and_is_not_ours(held, entrants):
    assert judge(held, entrants[::-1]).reference == "skips"
    del held.times["reference"], held.times["skips"]
    assert judge(held, entrants).reference == "ours"
    held.times.clear()
    assert judge(held, entrants) is None


def test_one_that_takes_more_threads_than_given_is_named(held, entrants):
    said = "\n".join(results.remarks(judge(held, entrants), threads=1))
    assert "More threads than 1: ours used 1.5." in said


def test_rows_hold_every_number_with_intervals(held, entrants):
    outcome = judge(held, entrants)
    results.record(outcome, "tiny.en", CONFIG, LIMITS)
    found = {row.what: row for row in rows.read_rows(rows.results_dir())}
    time = found["transcription: ours"]
    assert (time.value, time.unit, time.runs, time.against, time.model, time.clip) == (
        2.05, "s", 4, "reference", "tiny.en", "planted",
    )  # fmt: skip
    assert time.gain[1] < time.gain[0] < time.gain[2]
    assert (time.load_before, time.load_during, time.peak_bytes) == (0.1, 0.2, 300_000_000)
    times = found["as fast as reference: ours"]
    assert times.low < times.value < times.high
    assert found["CPU time: ours"].value == pytest.approx(3.075)
    assert found["peak memory with loading: ours"].value == 400
    assert found["word error rate: reference"].value == 0
    assert found["tokens: ours"].value == len(held.sound.texts[0])
    assert "does not count" in found["transcription: skips"].note
    assert found["transcription: skips"].gain is None
    assert "as fast as reference: skips" not in found


def test_fractions_of_the_roofline_follow_from_the_shape(held, entrants):
    encoded = (750, 750**2)
    split = {
        "all": {"seconds": 2.0, "calls": 1, "rows": 1},
        "encode": {"seconds": 2 * encoder_flops(CONFIG, *encoded) / 100e9, "calls": 1, "rows": 1},
        "project_cross_kv": {"seconds": 0.01, "calls": 1, "rows": 1},
        "prefill": {"seconds": 0.01, "calls": 1, "rows": 1},
        "decode_step": {"seconds": 0.5, "calls": 10, "rows": 20, "places": 20 * 750, "squares": 20 * 750**2},
    }
    split["encode"] |= dict(zip(("places", "squares"), encoded, strict=True))
    held.alone["ours"] = Alone(1.0, 5.0, 1, 1, 1, split)
    outcome = judge(held, entrants)
    near = results.fractions(outcome.find("ours"), CONFIG, LIMITS)
    moved = step_bytes(CONFIG, 0)
    assert near["encode"] == pytest.approx(0.5)
    assert near["decode_step"] == pytest.approx((10 * moved["weights"] + 10 * moved["cross_kv"]) / 10e9 / 0.5)
    eight_bits = replace(outcome.find("ours"), entrant=ours("ours", "fast", arithmetic="int8"))
    read = 10 * moved["weights"] / 4 + 10 * moved["cross_kv"] / 2
    assert results.fractions(eight_bits, CONFIG, LIMITS)["decode_step"] == pytest.approx(read / 10e9 / 0.5)
    assert "50%" in results.split_table(outcome, CONFIG, LIMITS)
    assert results.fractions(outcome.find("reference"), CONFIG, LIMITS) == {}


def test_a_plot_shows_those_that_did_the_work(held, entrants):
    drawn = results.draw(judge(held, entrants), "tiny.en")
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "reference"]
    assert axes.get_xlabel() == "seconds"
    assert "tiny.en, planted: 1 s of sound" in axes.get_title()
