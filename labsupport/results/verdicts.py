"""Verdicts: each computed from a result row by the rule of its claim. A claim without a row is open.

A verdict is judged from two sides, by the interval of one row, which is one session's on one machine: rows are never
mixed. `record` writes a row for a claim and gives the verdict that follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from labsupport.base.errors import ClaimError
from labsupport.base.tables import format_number
from labsupport.machine.description import describe_machine
from labsupport.results import rows
from labsupport.results.claims import Claim, claim
from labsupport.results.growth import FEWEST, FORMS, Growth, find_growth
from labsupport.results.rows import TOO_NOISY, Row
from labsupport.results.timing import Ratio, load_fields

REPRODUCED, SAME_DIRECTION, NOT_HERE = "reproduced", "same direction", "not here"
THEN, CORRECTED = "then, not now", "corrected"
WAITS, OPEN = "waits for hardware", "open"
STATUSES = (REPRODUCED, SAME_DIRECTION, NOT_HERE, THEN, CORRECTED, WAITS, OPEN)
CLOSE = 2.0  # a bound is reproduced down to its half; far below it something else was measured


@dataclass(frozen=True)
class Verdict:
    """The state of a claim: `status`, one sentence `why`, and the row that it comes from (none if open)."""

    claim: Claim
    status: str
    why: str
    row: Row | None = None

    def __str__(self) -> str:
        return f"{self.claim.id}: {self.status}. {self.why}"

    def _repr_markdown_(self) -> str:
        return f"**{self.claim.id}: {self.status}.** {self.why}"


# --- the rules: each gives REPRODUCED where the figure agrees, SAME_DIRECTION, NOT_HERE, or OPEN ----------------------


def judge_ratio(claim: Claim, row: Row) -> str:
    """An effect of a size: none if the interval holds `neutral` or lies beyond it; its size agrees if they overlap."""
    low, high = interval_of(claim, row)
    shown = low > claim.neutral if claim.figure > claim.neutral else high < claim.neutral
    if not shown:
        return NOT_HERE
    return REPRODUCED if overlaps(claim, low, high) else SAME_DIRECTION


def judge_gain(claim: Claim, row: Row) -> str:
    """An effect to which the article gives no size: the whole interval lies above `neutral`."""
    return REPRODUCED if interval_of(claim, row)[0] > claim.neutral else NOT_HERE


def judge_near(claim: Claim, row: Row) -> str:
    """A figure that depends on the machine: the interval overlaps it within its tolerance, from below and above."""
    return REPRODUCED if overlaps(claim, *interval_of(claim, row)) else NOT_HERE


def judge_at_most(claim: Claim, row: Row) -> str:
    """A bound: the whole interval lies below it (widened by the tolerance), and not below its half."""
    low, high = interval_of(claim, row)
    if high > claim.figure * (1 + claim.tolerance):
        return NOT_HERE
    return REPRODUCED if low >= claim.figure / CLOSE else SAME_DIRECTION


def judge_growth(claim: Claim, row: Row) -> str:
    """A growth with the power `figure` of the size: that form alone explains the values."""
    form = find_growth(row.sizes or ()).form
    if form is None:
        return OPEN
    return REPRODUCED if FORMS[form] == claim.figure else NOT_HERE


def judge_rises(claim: Claim, row: Row) -> str:
    """What grows with the size, in whatever form: no constant explains the values, or a constant alone does."""
    growth = find_growth(row.sizes or ())
    if growth.rises:
        return REPRODUCED
    return NOT_HERE if growth.forms == ("constant",) or growth.high < 0 else OPEN  # else noise hides it


def judge_equal(claim: Claim, row: Row) -> str:
    """A fact that is the same everywhere: a parameter count, a size, a piece of arithmetic; within the tolerance."""
    return REPRODUCED if overlaps(claim, row.number, row.number) else NOT_HERE


def judge_holds(claim: Claim, row: Row) -> str:
    """A statement that code found true (1.0) or false (0.0)."""
    return REPRODUCED if row.number else NOT_HERE


def interval_of(claim: Claim, row: Row) -> tuple[float, float]:
    """The row's interval; what was counted is its own."""
    return row.interval or (row.number, row.number)


def overlaps(claim: Claim, low: float, high: float) -> bool:
    """Whether the interval and the figure's, widened by its tolerance to both sides, have a point in common."""
    room = abs(claim.figure) * claim.tolerance + 1e-12
    return low <= claim.figure + room and high >= claim.figure - room


@dataclass(frozen=True)
class Rule:
    """How to judge, and the sentence that says so beside a verdict."""

    judge: Callable[[Claim, Row], str]
    text: str


RULES = {
    "ratio": Rule(judge_ratio, "the interval must exclude no effect, and overlap the article's figure"),
    "gain": Rule(judge_gain, "the interval must exclude no effect"),
    "equal": Rule(judge_equal, "the figures must be equal"),
    "near": Rule(judge_near, "the interval must overlap the article's figure"),
    "at_most": Rule(judge_at_most, "the whole interval must lie below the bound and above its half"),
    "growth": Rule(judge_growth, f"that form alone must explain {FEWEST} sizes or more"),
    "rises": Rule(judge_rises, f"no constant may explain {FEWEST} sizes or more"),
    "holds": Rule(judge_holds, "the notebook's test finds it true or false"),
}


# --- from rows to a verdict -------------------------------------------------------------------------------------------


def verdict(claim: Claim, results: Iterable[Row], machine: str | None = None) -> Verdict:
    """The claim's verdict for a reader on `machine` (this one if None).

    A measurement beats a prediction, and that beats a row that names what was missing; a whole run beats one in fast
    mode, which counts only where there is no other; then the reader's own machine beats another; then the later row
    beats the earlier. The sentence names the machine, so that nobody takes a stored result for their own. A row that
    cannot carry a verdict counts for nothing.
    """
    machine = machine or describe_machine().name
    of_claim = [row for row in results if row.claim == claim.id]
    if fit := [row for row in of_claim if find_lack(claim, row) is None]:
        return judge(claim, max(fit, key=lambda row: rank(row, machine)))
    if of_claim:
        lack, care = find_lack(claim, of_claim[-1]), describe_care(of_claim[-1])
        return Verdict(claim, OPEN, f"No stored result can carry a verdict: {lack}.{care}")
    return Verdict(claim, OPEN, "No result is recorded yet.")


def rank(row: Row, machine: str) -> tuple:
    """The larger, the rather it decides for a reader on `machine`."""
    return row.value is not None, not row.predicted, not row.fast, row.machine == machine, row.date


def find_lack(claim: Claim, row: Row) -> str | None:
    """What a row lacks to carry the claim's verdict, if anything."""
    if odd := row.find_odd_date() or (row.find_odd_figure() if claim.check != "holds" else None):
        return odd
    if row.value is None:
        return None if row.missing in claim.needs else f"the claim does not wait for {row.missing}"
    if row.date < claim.since:
        return f"the test was changed on {claim.since}, and the result is older"
    if row.unit != claim.unit:
        return f"it is in {row.unit!r}, as an older rule asked, and not in {claim.unit!r}"
    if claim.check == "holds" and row.value not in (0, 1):
        return "a statement's result is true or false (1 or 0)"
    if row.is_too_noisy():
        return f"{TOO_NOISY}: {describe_result(claim, row)}"
    if claim.check in ("growth", "rises"):
        return None if len(row.sizes or ()) >= FEWEST else f"a growth needs {FEWEST} sizes or more"
    if claim.kind == "measured" and claim.check != "holds" and not row.predicted and row.interval is None:
        return "one number without an interval decides nothing"
    return None


def judge(claim: Claim, row: Row) -> Verdict:
    """The verdict that this one row gives."""
    note = f" {row.note}" if row.note else ""
    if lack := find_lack(claim, row):
        return Verdict(claim, OPEN, f"This result can carry no verdict: {lack}.{describe_care(row)}{note}", row)
    if row.value is None:
        return Verdict(claim, WAITS, f"It needs {row.missing}; none on {describe_place(row)}.{note}", row)
    differences = find_differences(claim, row)
    status = choose_status(claim, row, RULES[claim.check].judge(claim, row), differences)
    other = f" Other than the article's: {'; '.join(differences)}." if differences else ""
    waits = f" It waits for {', '.join(claim.needs) or 'a measurement'}." if status == WAITS else ""
    changed = f" Changed since: {claim.changed}." if status == THEN else ""
    texts = f"The article: {describe_figure(claim)}. {describe_result(claim, row)}. Rule: {RULES[claim.check].text}."
    return Verdict(claim, status, f"{texts}{other}{changed}{waits}{describe_care(row)}{note}", row)


def choose_status(claim: Claim, row: Row, found: str, differences: list[str]) -> str:
    """What the rule found -> the verdict, by the kind of truth and the setting."""
    if row.predicted and claim.kind != "definition":
        return WAITS
    if found == NOT_HERE and claim.kind == "definition":
        return CORRECTED
    if found == NOT_HERE and claim.changed and find_other_version(claim, row):
        return THEN
    return SAME_DIRECTION if found == REPRODUCED and differences else found


def find_differences(claim: Claim, row: Row) -> list[str]:
    """In what the row's setting is another than the article's; nothing where a definition decides."""
    if claim.kind == "definition":
        return []
    found = [(name, getattr(claim, name), getattr(row, name) or "") for name in ("model", "clip")]
    different = [f"{name} {ours or 'unnamed'} for {theirs}" for name, theirs, ours in found if theirs not in ("", ours)]
    device = row.device or "cpu"
    if claim.device not in device:
        different.append(f"device {device} for {claim.device}")
    if other := find_other_version(claim, row):
        different.append(other)
    return different


def find_other_version(claim: Claim, row: Row) -> str | None:
    """The row's version of the claim's package, where it is another than the article's."""
    package, _, version = claim.version.partition(" ")
    ours = row.versions.get(package, "none")
    return f"{package} {ours} for {version}" if package and not f"{ours}.".startswith(f"{version}.") else None


def describe_place(row: Row) -> str:
    return f"{row.machine} ({', '.join(filter(None, [row.backend, row.model, row.clip]))})"


def describe_figure(claim: Claim) -> str:
    """What the article says, with its setting."""
    figure = "true" if claim.check == "holds" else f"{format_number(claim.figure, 4)} {claim.unit}"
    figure = "an effect, without a size" if claim.check in ("gain", "rises") else figure
    return f"{figure} ({claim.setting})" if claim.setting else figure


def describe_result(claim: Claim, row: Row) -> str:
    """What the row says, with its interval, model and machine."""
    verb = "Predicted, not measured" if row.predicted else "By definition" if claim.kind == "definition" else "Here"
    low, high = row.interval or (0, 0)
    ends = f" ({format_number(low, 4)} to {format_number(high, 4)})" if low < high else ""
    value = f"{format_number(row.number, 4)}{ends}"
    value = str(bool(row.value)).lower() if claim.check == "holds" else f"{value} {claim.unit}"
    return f"{verb}: {value}, {describe_place(row)}"


def describe_care(row: Row) -> str:
    """What a reader must know of the row beside its figure: a busy machine, a fast run."""
    marks = ((" Measured on a busy machine.", row.is_busy()), (" A fast run: it counts in no total.", row.fast is True))
    return "".join(text for text, is_so in marks if is_so)


# --- recording --------------------------------------------------------------------------------------------------------


def record(id: str, value: float | bool | Ratio | Growth, **details) -> Verdict:
    """Writes a result row for the claim and returns its verdict.

    Args:
        value: in the claim's unit; a `Ratio` or `Growth` brings its interval along, True and False stand for 1 and 0.
        details: runs, model, clip, low, high, predicted, peak_bytes, note, backend, group, as in `rows.record`.

    ClaimError where the ledger has no such claim, or it is a statement and the value neither true nor false.
    """
    tested = claim(id)
    number, measured = split_value(value)
    if tested.check == "holds" and number not in (0, 1):
        raise ClaimError(f"Claim {id} is a statement: its result is true or false, not {number:g}.", where=id)
    return judge(tested, rows.record(tested.text, number, tested.unit, claim=id, **{**measured, **details}))


def split_value(value: float | bool | Ratio | Growth) -> tuple[float, dict]:
    """The number of a row, and the fields that come with it."""
    if isinstance(value, Ratio):
        return value.value, {
            "spread": value.value - value.low,
            "low": value.low,
            "high": value.high,
            **load_fields(value.load),
        }
    if isinstance(value, Growth):
        return value.power, {"low": value.low, "high": value.high, "sizes": value.sizes}
    return float(value), {}


def record_missing(id: str, missing: str, **details) -> Verdict:
    """Writes a row that names what this machine lacks to test the claim; ClaimError unless it is one of its `needs`."""
    tested = claim(id)
    if missing not in tested.needs:
        needs = ", ".join(tested.needs) or "nothing special"
        raise ClaimError(f"Claim {id} does not wait for {missing!r}.", where=id, hint=f"It needs {needs}.")
    return judge(tested, rows.record(tested.text, None, tested.unit, claim=id, missing=missing, **details))
