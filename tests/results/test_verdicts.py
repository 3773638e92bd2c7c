"""A verdict comes from a result row and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labsupport.base.errors import ClaimError, RowError
from labsupport.results import claims, rows, verdicts
from labsupport.results.claims import Claim
from labsupport.results.load import Load
from labsupport.results.rows import Row
from labsupport.results.timing import Ratio

LEDGER = claims.load()
NEEDS = {"ascend", "cuda", "sophon", "hub:large-v3"}
STATUSES = {"reproduced", "partly", "not here", "corrected", "waits for hardware", "open"}
ROW = Row("x", 1.0, "times", "laptop", "torch", "2026-01-01T00:00:00+00:00", "abc")


def make_claim(check: str, figure: float, **details) -> Claim:
    return Claim("A1", "A", "text", "", figure, "times", check, "", (), **details)


def make_row(value, machine="laptop", day=1, claim="A1", **details) -> Row:
    date = f"2026-01-{day:02}T00:00:00+00:00"
    return replace(ROW, value=value, machine=machine, date=date, claim=claim, **details)


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    return tmp_path


# --- no verdict without a row


def test_no_verdict_without_a_row_of_this_claim():
    for claim in LEDGER:
        others = [make_row(1.0, claim=other.id) for other in LEDGER if other.id != claim.id]
        for given in ([], others, [make_row(1.0, claim=None)]):
            verdict = verdicts.verdict(claim, given, "laptop")
            assert (verdict.status, verdict.row) == ("open", None), claim.id


def test_every_verdict_follows_its_row():
    """The articles' own figures would reproduce every claim, figures far off none: nothing is decided in advance."""
    for claim in LEDGER:
        agreeing = verdicts.verdict(claim, [make_row(claim.figure, claim=claim.id)], "laptop")
        expected = "not here" if claim.figure <= 1 and claim.check == "ratio" else "reproduced"
        assert agreeing.status == expected, claim.id
        far = {"at_most": 10 * claim.figure, "at_least": 0.1 * claim.figure, "holds": 0.0, "ratio": 0.5}
        row = make_row(far.get(claim.check, 3 * claim.figure), claim=claim.id)
        disagreeing = verdicts.verdict(claim, [row], "laptop")
        expected = "corrected" if claim.check in ("equal", "holds") else "not here"
        assert (disagreeing.status, disagreeing.row) == (expected, row), claim.id
        assert "laptop" in disagreeing.why


def test_waiting_for_hardware_needs_a_row_that_says_so():
    claim = make_claim("ratio", 2, needs=("cuda",))
    waiting = verdicts.verdict(claim, [make_row(None, missing="cuda", note="Seen by doctor.")], "laptop")
    assert waiting.status == "waits for hardware"
    assert waiting.why == "It needs cuda; none on laptop (torch). Seen by doctor."


# --- the rules


@pytest.mark.parametrize(
    ("check", "figure", "tolerance", "value", "spread", "status"),
    [
        ("ratio", 2.0, 0, 2.0, 0.1, "reproduced"),
        ("ratio", 2.0, 0, 1.8, 0.1, "reproduced"),
        ("ratio", 2.0, 0, 1.79, 0.1, "partly"),
        ("ratio", 2.0, 0, 1.2, 0.1, "partly"),
        ("ratio", 2.0, 0, 1.2, 0.2, "not here"),
        ("ratio", 2.0, 0, 0.7, 0.1, "not here"),
        ("ratio", 2.0, 0, 5.0, 4.5, "open"),
        ("ratio", 1.05, 0, 0.96, None, "not here"),
        ("ratio", 2.0, 0, 1.5, None, "partly"),
        ("equal", 39e6, 0.05, 40e6, None, "reproduced"),
        ("equal", 39e6, 0.05, 74e6, None, "corrected"),
        ("equal", 16, 0, 16, None, "reproduced"),
        ("equal", 16, 0, 20, None, "corrected"),
        ("near", 95, 0.1, 100, None, "reproduced"),
        ("near", 95, 0.1, 120, None, "not here"),
        ("at_most", 1, 0, 0.3, None, "reproduced"),
        ("at_most", 1, 0, 1.1, None, "not here"),
        ("at_most", 1.2, 0.05, 1.25, None, "reproduced"),
        ("at_least", 35, 0, 36, None, "reproduced"),
        ("at_least", 35, 0, 30, None, "not here"),
        ("holds", 1, 0, 1.0, None, "reproduced"),
        ("holds", 1, 0, 0.0, None, "corrected"),
    ],
)
def test_rules_judge_planted_rows(check, figure, tolerance, value, spread, status):
    claim = make_claim(check, figure, tolerance=tolerance)
    assert verdicts.judge(claim, make_row(value, spread=spread)).status == status


# --- whose result counts


def test_own_machine_beats_another_and_later_beats_earlier():
    claim = make_claim("at_most", 1)
    given = [make_row(0.5, "laptop", 1), make_row(2.0, "laptop", 2), make_row(0.5, "server", 3)]
    assert verdicts.verdict(claim, given, "laptop").row == given[1]
    assert verdicts.verdict(claim, given, "phone").row == given[2]
    assert verdicts.verdict(claim, given[::-1], "laptop").row == given[1]


def test_measurement_elsewhere_beats_a_note_that_nothing_could_be_measured_here():
    claim = make_claim("at_most", 1, needs=("cuda",))
    given = [make_row(0.5, "h200", 1), make_row(None, "laptop", 2, missing="cuda")]
    verdict = verdicts.verdict(claim, given, "laptop")
    assert verdict.status == "reproduced"
    assert "h200" in verdict.why


def test_a_row_that_is_too_noisy_gives_no_verdict_and_takes_no_other_row_s_place():
    claim = make_claim("ratio", 2.0)
    noisy, quiet = make_row(4.08, day=2, spread=2.63), make_row(2.1, day=1, spread=0.1)
    assert verdicts.verdict(claim, [quiet, noisy]).row == quiet
    assert verdicts.verdict(claim, [noisy]).status == "open"
    assert verdicts.judge(claim, noisy).status == "open"
    assert "too noisy to judge, run again: 4.08 ± 2.6 times" in verdicts.judge(claim, noisy).why


# --- recording


def test_recorded_result_gives_its_verdict_and_a_row(results):
    verdict = verdicts.record("C2", 74e6, model="base", note="Counted.", group="02_where_memory_goes")
    assert verdict.status == "corrected"
    assert rows.read_rows(results) == [verdict.row]
    assert verdict.row.claim == "C2"
    assert verdicts.verdict(claims.claim("C2"), rows.read_rows(results)) == verdict
    assert "74 million" in verdict._repr_markdown_()
    assert "Counted." in verdict._repr_markdown_()


@pytest.mark.parametrize(("interval", "status"), [((1.5, 1.9), "reproduced"), ((0.9, 1.9), "not here")])
def test_ratio_brings_its_interval_along(results, interval, status):
    assert verdicts.record("B1", Ratio(1.7, *interval)).status == status


def test_a_ratio_brings_the_load_of_its_machine_along(results):
    row = verdicts.record("B1", Ratio(1.7, 1.5, 1.9, Load(0.25, 0.5))).row
    assert (row.load_before, row.load_during) == (0.25, 0.5)


def test_statement_is_recorded_as_true_or_false(results):
    assert verdicts.record("C12", False).status == "corrected"
    assert verdicts.record("C12", True).status == "reproduced"
    with pytest.raises(ClaimError, match="true or false"):
        verdicts.record("C12", 0.5)


def test_what_is_missing_is_recorded_for_what_the_claim_needs_alone(results):
    verdict = verdicts.record_missing("A1", "ascend", note="No NPU.")
    assert verdict.status == "waits for hardware"
    assert rows.read_rows(results) == [verdict.row]
    with pytest.raises(ClaimError, match="does not wait for 'ascend'"):
        verdicts.record_missing("C1", "ascend")


def test_unknown_claim_or_infinite_value_writes_nothing(results):
    with pytest.raises(ClaimError):
        verdicts.record("Z9", 1.0)
    with pytest.raises(RowError):
        verdicts.record("C1", float("inf"))
    assert rows.read_rows(results) == []


def test_every_status_has_a_place_in_these_tests():
    named = {verdicts.REPRODUCED, verdicts.PARTLY, verdicts.NOT_HERE, verdicts.CORRECTED, verdicts.WAITS, verdicts.OPEN}
    assert named == STATUSES
