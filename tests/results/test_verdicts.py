"""A verdict comes from a result row and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labsupport.base.errors import ClaimError, RowError
from labsupport.results import claims, rows, verdicts
from labsupport.results.claims import Claim
from labsupport.results.growth import find_growth
from labsupport.results.load import Load
from labsupport.results.rows import Row
from labsupport.results.timing import Ratio

LEDGER = claims.load()
NEEDS = {"ascend", "cuda", "sophon", "hub:large-v3"}
STATUSES = {"reproduced", "same direction", "not here", "then, not now", "corrected", "waits for hardware", "open"}
ROW = Row("x", 1.0, "times", "laptop", "torch", "2026-01-01T00:00:00+00:00", "abc")


def make_claim(check: str, figure: float, **details) -> Claim:
    kind = "definition" if check == "equal" else "measured"
    return Claim("A1", "A", "text", "", figure, "times", check, "", (), **{"kind": kind, **details})


def fitting_row(claim: Claim, value: float, **details) -> Row:
    """A row of the article's own setting."""
    package, _, version = claim.version.partition(" ")
    setting = {"model": claim.model or None, "clip": claim.clip or None, "device": f"{claim.device} card"}
    setting |= {"versions": {package: f"{version}.1"} if package else {}, "unit": claim.unit}
    setting |= {"spread": None if claim.check in ("holds", "equal") else 0.001 * abs(value)}
    return make_row(value, claim=claim.id, day=1, **{**setting, "date": "2027-01-01T00:00:00+00:00", **details})


def make_row(value, machine="laptop", day=1, claim="A1", **details) -> Row:
    date = f"2026-01-{day:02}T00:00:00+00:00"
    return replace(ROW, **{"value": value, "machine": machine, "date": date, "claim": claim, **details})


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


def grow(power: float) -> tuple:
    """Values that grow with this power of the size."""
    return tuple((n, 3.0 * n**power) for n in (1, 2, 4, 8))


def test_every_verdict_follows_its_row(monkeypatch):
    """The articles' own figures in their own setting would reproduce every claim, figures far off none."""
    monkeypatch.setattr(rows.Row, "find_odd_date", lambda self: None)  # the rows lie behind the ledger's newest test
    for claim in LEDGER:
        figure = claim.figure * {"gain": 1.5, "at_most": 0.9}.get(claim.check, 1.0)
        row = fitting_row(claim, figure, sizes=grow(min(claim.figure, 2)))
        assert verdicts.verdict(claim, [row], "laptop").status == "reproduced", claim.id
        far = {"at_most": 10 * figure, "holds": 0.0, "gain": 0.5, "ratio": 1.1 * claim.neutral - 0.1 * figure}
        details = {"sizes": grow(0), **({"versions": {}} if claim.changed else {})}
        row = fitting_row(claim, far.get(claim.check, 3 * figure), **details)
        missed = verdicts.verdict(claim, [row], "laptop")
        expected = "corrected" if claim.kind == "definition" else "then, not now" if claim.changed else "not here"
        assert (missed.status, missed.row) == (expected, row), claim.id
        assert "laptop" in missed.why


def test_no_other_setting_reproduces_and_no_measurement_corrects(monkeypatch):
    monkeypatch.setattr(rows.Row, "find_odd_date", lambda self: None)
    for claim in LEDGER:
        figure = claim.figure * {"gain": 1.5, "at_most": 0.9}.get(claim.check, 1.0)
        other = {"model": "toy", "clip": "tone", "device": "cpu", "versions": {}, "sizes": grow(min(claim.figure, 2))}
        status = verdicts.verdict(claim, [fitting_row(claim, figure, **other)], "laptop").status
        assert status == ("reproduced" if claim.kind == "definition" else "same direction"), claim.id


def test_waiting_for_hardware_needs_a_row_that_says_so():
    claim = make_claim("ratio", 2, needs=("cuda",))
    waiting = verdicts.verdict(claim, [make_row(None, missing="cuda", note="Seen by doctor.")], "laptop")
    assert waiting.status == "waits for hardware"
    assert waiting.why == "It needs cuda; none on laptop (torch). Seen by doctor."


# --- the rules


# a claim's rule, figure and tolerance; a row's interval; the verdict in the same setting, and in another
PLANTED = [
    ("ratio", 2.0, 0.1, (1.5, 1.81), "reproduced", "same direction"),  # overlaps from below
    ("ratio", 2.0, 0.1, (1.5, 1.79), "same direction", "same direction"),
    ("ratio", 2.0, 0.1, (2.19, 2.5), "reproduced", "same direction"),  # overlaps from above
    ("ratio", 2.0, 0.1, (2.21, 2.5), "same direction", "same direction"),
    ("ratio", 1.7, 0.1, (0.99, 1.8), "not here", "not here"),  # overlaps, and holds 1
    ("ratio", 1.7, 0.1, (1.01, 1.8), "reproduced", "same direction"),
    ("ratio", 1.7, 0.1, (0.6, 0.9), "not here", "not here"),  # reversed
    ("ratio", 1.1, 0.05, (0.85, 0.97), "not here", "not here"),  # a cost that turned out a gain: D13
    ("ratio", 0.9, 0.05, (0.8, 0.99), "reproduced", "same direction"),  # a figure below 1: a loss
    ("ratio", 0.9, 0.05, (0.8, 1.01), "not here", "not here"),
    ("ratio", 0.9, 0.05, (0.8, 0.84), "same direction", "same direction"),
    ("gain", 1.0, 0, (1.01, 1.3), "reproduced", "same direction"),
    ("gain", 1.0, 0, (0.99, 1.3), "not here", "not here"),
    ("gain", 1.0, 0, (0.7, 0.9), "not here", "not here"),
    ("near", 95, 0.1, (80, 86), "reproduced", "same direction"),
    ("near", 95, 0.1, (80, 85), "not here", "not here"),
    ("near", 95, 0.1, (104, 120), "reproduced", "same direction"),
    ("near", 95, 0.1, (105, 120), "not here", "not here"),
    ("at_most", 60, 0, (40, 60), "reproduced", "same direction"),
    ("at_most", 60, 0, (40, 61), "not here", "not here"),
    ("at_most", 60, 0.05, (40, 62), "reproduced", "same direction"),
    ("at_most", 60, 0, (30, 40), "reproduced", "same direction"),
    ("at_most", 60, 0, (29, 40), "same direction", "same direction"),  # far below: another thing was measured
    ("equal", 39e6, 0.05, (40.9e6, 40.9e6), "reproduced", "reproduced"),
    ("equal", 39e6, 0.05, (41e6, 41e6), "corrected", "corrected"),
    ("equal", 39e6, 0.05, (37.1e6, 37.1e6), "reproduced", "reproduced"),
    ("equal", 39e6, 0.05, (37e6, 37e6), "corrected", "corrected"),
    ("equal", 16, 0, (20, 20), "corrected", "corrected"),
]


@pytest.mark.parametrize(("check", "figure", "tolerance", "interval", "same", "other"), PLANTED)
def test_rules_judge_planted_rows_from_both_sides(check, figure, tolerance, interval, same, other):
    claim = make_claim(check, figure, tolerance=tolerance, model="large-v3", device="ascend")
    low, high = interval
    here = make_row((low + high) / 2, low=low, high=high, model="large-v3", device="ascend 910b")
    assert verdicts.judge(claim, here).status == same
    for change in ({"model": "tiny.en"}, {"device": "cpu"}, {"device": None}, {"model": None}):
        assert verdicts.judge(claim, replace(here, **change)).status == other, change


@pytest.mark.parametrize("claimed", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("grown", [0.0, 0.5, 1.0, 2.0])
def test_a_growth_is_another_form_s_no_verdict(claimed, grown):
    claim = make_claim("growth", claimed)
    row = make_row(0.5, sizes=grow(grown))
    assert verdicts.judge(claim, row).status == ("reproduced" if claimed == grown else "not here")
    assert verdicts.judge(replace(claim, model="large-v3"), row).status == (
        "same direction" if claimed == grown else "not here"
    )


def test_a_growth_needs_four_sizes_that_decide():
    claim, rises = make_claim("growth", 1.0), make_claim("rises", 1.0)
    for row in (make_row(1.0), make_row(1.0, sizes=grow(1)[:3])):
        for each in (claim, rises):
            assert verdicts.judge(each, row).status == "open"
            assert "4 sizes" in verdicts.judge(each, row).why
    noise = make_row(1.0, sizes=((1, 1.0), (2, 3.1), (3, 1.2), (4, 3.9)))
    assert verdicts.judge(claim, noise).status == "open"
    assert verdicts.judge(rises, noise).status == "open"
    falls = make_row(1.0, sizes=tuple((n, 100.0 / n) for n in (1, 2, 4, 8)))
    assert verdicts.judge(rises, falls).status == "not here"


@pytest.mark.parametrize(("power", "status"), [(0.0, "not here"), (0.5, "reproduced"), (2.0, "reproduced")])
def test_what_rises_may_have_any_form(power, status):
    assert verdicts.judge(make_claim("rises", 1.0), make_row(1.0, sizes=grow(power))).status == status


@pytest.mark.parametrize(
    ("kind", "changed", "value", "model", "status"),
    [
        ("definition", "", 1.0, "tiny.en", "reproduced"),
        ("definition", "", 0.0, "tiny.en", "corrected"),
        ("counted", "", 1.0, "base", "reproduced"),
        ("counted", "", 1.0, "tiny.en", "same direction"),
        ("counted", "", 0.0, "base", "not here"),
        ("measured", "", 0.0, "tiny.en", "not here"),
        ("counted", "gone since 2.0", 0.0, "base", "then, not now"),
        ("counted", "gone since 2.0", 0.0, "tiny.en", "then, not now"),
        ("counted", "gone since 2.0", 1.0, "base", "reproduced"),
    ],
)
def test_a_statement_is_judged_by_its_kind_of_truth(kind, changed, value, model, status):
    claim = make_claim("holds", 1, kind=kind, changed=changed, version="tool 1" if changed else "", model="base")
    versions = {"tool": "1.5" if value else "2.0"}
    verdict = verdicts.judge(claim, make_row(value, model=model, versions=versions))
    assert verdict.status == status
    assert ("Changed since: gone since 2.0." in verdict.why) == (status == "then, not now")


def test_what_is_absent_in_the_article_s_own_version_has_not_changed_since():
    claim = make_claim("holds", 1, kind="counted", changed="gone since 2.0", version="tool 1")
    for versions, status in (({"tool": "1.9"}, "not here"), ({"tool": "2.0"}, "then, not now"), ({}, "then, not now")):
        assert verdicts.judge(claim, make_row(0.0, versions=versions)).status == status


def test_a_row_that_lacks_what_the_claim_does_not_need_gives_no_wait():
    claim = make_claim("ratio", 2, needs=("cuda",))
    assert verdicts.judge(claim, make_row(None, missing="cuda")).status == "waits for hardware"
    odd = make_row(None, missing="a quiet afternoon")
    assert verdicts.judge(claim, odd).status == verdicts.verdict(claim, [odd]).status == "open"


def test_a_busy_machine_and_a_fast_run_are_told():
    claim = make_claim("near", 1.0, tolerance=0.1)
    for details, told in (({}, False), ({"load_before": 0.2}, False), ({"load_during": 0.3}, True)):
        why = verdicts.judge(claim, make_row(1.0, spread=0.01, **details)).why
        assert ("Measured on a busy machine." in why) == told, details
    for fast in (None, False, True):
        why = verdicts.judge(claim, make_row(1.0, spread=0.01, fast=fast)).why
        assert ("A fast run: it counts in no total." in why) == bool(fast)


def test_version_and_clip_belong_to_the_setting():
    claim = make_claim("holds", 1, version="mindspore 2.5", clip="narration")
    row = make_row(1.0, clip="narration", versions={"mindspore": "2.5.0"})
    assert verdicts.judge(claim, row).status == "reproduced"
    for change in ({"clip": "jfk"}, {"versions": {"mindspore": "2.50.0"}}, {"versions": {}}):
        assert verdicts.judge(claim, replace(row, **change)).status == "same direction", change
    why = verdicts.judge(claim, replace(row, clip="jfk", versions={"mindspore": "2.7.0"})).why
    assert "Other than the article's: clip jfk for narration; mindspore 2.7.0 for 2.5." in why


# --- what can carry no verdict


def test_one_number_without_an_interval_decides_nothing_that_has_noise():
    measured, counted = make_claim("ratio", 1.2), make_claim("ratio", 1.2, kind="counted")
    assert verdicts.judge(measured, make_row(1.2)).status == "open"
    assert "one number without an interval" in verdicts.judge(measured, make_row(1.2)).why
    assert verdicts.judge(measured, make_row(1.2, spread=0.05)).status == "reproduced"
    assert verdicts.judge(counted, make_row(1.2)).status == "reproduced"


def test_an_older_row_s_interval_is_its_spread_to_both_sides():
    claim = make_claim("ratio", 2.0)
    assert verdicts.judge(claim, make_row(1.9, spread=0.1)).status == "reproduced"
    assert verdicts.judge(claim, make_row(1.9, spread=0.09)).status == "same direction"
    assert verdicts.judge(claim, make_row(2.1, spread=0.1)).status == "reproduced"
    assert verdicts.judge(claim, make_row(2.1, spread=0.09)).status == "same direction"


def test_a_prediction_waits_and_is_called_one():
    claim = make_claim("near", 30, kind="counted", tolerance=0.1, needs=("cuda",))
    for value in (7.4, 30.0):
        verdict = verdicts.judge(claim, make_row(value, predicted=True))
        assert verdict.status == "waits for hardware"
        assert "Predicted, not measured" in verdict.why
        assert "It waits for cuda." in verdict.why
        assert "Here:" not in verdict.why
    assert verdicts.verdict(claim, [make_row(7.4, predicted=True, day=9), make_row(30.0)]).status == "reproduced"
    assert verdicts.verdict(claim, [make_row(7.4, predicted=True), make_row(None, missing="cuda", day=9)]).row.predicted


def test_a_result_from_before_its_test_was_changed_counts_for_nothing():
    claim = make_claim("holds", 1, since="2026-01-05")
    verdict = verdicts.verdict(claim, [make_row(1.0, day=4)])
    assert verdict.status == "open"
    assert "the test was changed on 2026-01-05" in verdict.why
    assert verdicts.verdict(claim, [make_row(1.0, day=4), make_row(0.0, day=5)]).status == "not here"


def test_a_result_in_another_unit_counts_for_nothing():
    assert verdicts.verdict(make_claim("gain", 1), [make_row(1.0, unit="true or false")]).status == "open"


def test_the_line_shows_both_figures_the_interval_model_machine_and_rule():
    claim = make_claim("ratio", 1.703, model="base", device="sophon")
    why = verdicts.judge(claim, make_row(1.955, low=1.526, high=2.384, model="base", clip="jfk")).why
    for part in ("The article: 1.703 times", "1.955 (1.526 to 2.384) times", "laptop (torch, base, jfk)", "Rule: the"):
        assert part in why


def test_two_machines_rows_are_never_mixed_in_one_verdict():
    """Each alone shows no gain; the baseline of one over the variant of the other would."""
    claim = make_claim("ratio", 2.0)
    given = [make_row(1.0, "laptop", spread=0.1), make_row(1.02, "server", spread=0.1, day=2)]
    for machine in ("laptop", "server", "phone"):
        found = verdicts.verdict(claim, given, machine)
        assert (found.status, found.row in given) == ("not here", True)


# --- whose result counts


def test_own_machine_beats_another_and_later_beats_earlier():
    claim = make_claim("at_most", 1)
    details = {"spread": 0.01}
    given = [make_row(v, m, d, **details) for v, m, d in ((0.5, "laptop", 1), (2.0, "laptop", 2), (0.5, "server", 3))]
    assert verdicts.verdict(claim, given, "laptop").row == given[1]
    assert verdicts.verdict(claim, given, "phone").row == given[2]
    assert verdicts.verdict(claim, given[::-1], "laptop").row == given[1]


def test_a_fast_run_changes_nothing_where_there_is_a_whole_one():
    claim = make_claim("at_most", 1)
    whole, fast = make_row(0.7, "server", 1, spread=0.01), make_row(2.0, "laptop", 2, spread=0.01, fast=True)
    assert verdicts.verdict(claim, [whole, fast], "laptop").row == whole
    assert verdicts.verdict(claim, [fast], "laptop").row == fast


def test_measurement_elsewhere_beats_a_note_that_nothing_could_be_measured_here():
    claim = make_claim("at_most", 1, needs=("cuda",))
    given = [make_row(0.5, "h200", 1, spread=0), make_row(None, "laptop", 2, missing="cuda")]
    verdict = verdicts.verdict(claim, given, "laptop")
    assert verdict.status == "reproduced"
    assert "h200" in verdict.why


def test_a_row_that_is_too_noisy_gives_no_verdict_and_takes_no_other_row_s_place():
    claim = make_claim("ratio", 2.0)
    noisy, quiet = make_row(4.08, day=2, spread=2.63), make_row(2.1, day=1, spread=0.1)
    assert verdicts.verdict(claim, [quiet, noisy]).row == quiet
    assert verdicts.verdict(claim, [noisy]).status == "open"
    assert verdicts.judge(claim, noisy).status == "open"
    assert "too noisy to judge, run again: Here: 4.08 (1.45 to 6.71) times" in verdicts.judge(claim, noisy).why


# --- recording


def test_recorded_result_gives_its_verdict_and_a_row(results):
    verdict = verdicts.record("C2", 74e6, model="base", note="Counted.", group="02_where_memory_goes")
    assert verdict.status == "corrected"
    assert rows.read_rows(results) == [verdict.row]
    assert verdict.row.claim == "C2"
    assert verdicts.verdict(claims.claim("C2"), rows.read_rows(results)) == verdict
    assert "74 million" in verdict._repr_markdown_()
    assert "Counted." in verdict._repr_markdown_()


@pytest.mark.parametrize(("interval", "status"), [((1.5, 1.9), "same direction"), ((0.9, 1.9), "not here")])
def test_ratio_brings_its_interval_along(results, interval, status):
    verdict = verdicts.record("B1", Ratio(1.7, *interval))
    assert (verdict.status, verdict.row.interval) == (status, interval)


def test_growth_brings_its_sizes_along(results):
    verdict = verdicts.record("C26", find_growth(grow(1)), model="deep")
    assert (verdict.status, verdict.row.sizes) == ("not here", grow(1))
    assert verdicts.record("C26", find_growth(grow(0.5)), model="deep").status == "same direction"
    assert [row.sizes for row in rows.read_rows(results)] == [grow(1), grow(0.5)]


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
    assert set(verdicts.STATUSES) == STATUSES
