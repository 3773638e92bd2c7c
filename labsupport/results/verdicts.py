"""Verdicts: each computed from a result row by the rule of its claim. A claim without a row is open.

Each machine has a verdict of its own. `record` writes a row for a claim and gives the verdict that follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from labsupport.base.errors import ClaimError
from labsupport.base.tables import format_number
from labsupport.machine.description import describe_machine
from labsupport.results import rows
from labsupport.results.claims import Claim, claim
from labsupport.results.rows import Row
from labsupport.results.timing import Ratio, load_fields

REPRODUCED, PARTLY, NOT_HERE, CORRECTED = "reproduced", "partly", "not here", "corrected"
WAITS, OPEN = "waits for hardware", "open"
TOO_NOISY = "too noisy to judge, run again"


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


def judge_ratio(claim: Claim, row: Row) -> str:
    """A gain of `figure` times: nothing if within the noise; nine tenths of it is enough; less is partly."""
    if row.number - (row.spread or 0.0) <= 1:
        return NOT_HERE
    return REPRODUCED if row.number >= 0.9 * claim.figure else PARTLY


def judge_equal(claim: Claim, row: Row) -> str:
    """A fact that is the same everywhere: a parameter count, a size, a piece of arithmetic."""
    return REPRODUCED if is_near(claim, row) else CORRECTED


def judge_near(claim: Claim, row: Row) -> str:
    """A measured figure that depends on the machine."""
    return REPRODUCED if is_near(claim, row) else NOT_HERE


def judge_at_most(claim: Claim, row: Row) -> str:
    return REPRODUCED if row.number <= claim.figure * (1 + claim.tolerance) else NOT_HERE


def judge_at_least(claim: Claim, row: Row) -> str:
    return REPRODUCED if row.number >= claim.figure * (1 - claim.tolerance) else NOT_HERE


def judge_holds(claim: Claim, row: Row) -> str:
    """A statement that code found true (1.0) or false (0.0)."""
    return REPRODUCED if row.number else CORRECTED


def is_near(claim: Claim, row: Row) -> bool:
    return math.isclose(row.number, claim.figure, rel_tol=0.0, abs_tol=abs(claim.figure) * claim.tolerance + 1e-12)


RULES: dict[str, Callable[[Claim, Row], str]] = {
    "ratio": judge_ratio,
    "equal": judge_equal,
    "near": judge_near,
    "at_most": judge_at_most,
    "at_least": judge_at_least,
    "holds": judge_holds,
}


def verdict(claim: Claim, results: Iterable[Row], machine: str | None = None) -> Verdict:
    """The claim's verdict for a reader on `machine` (this one if None).

    A measurement beats a row that names what was missing; then the reader's own machine beats another; then the later
    row beats the earlier. The sentence names the machine, so that nobody takes a stored result for their own. A row
    whose figure can be no result counts for nothing.
    """
    machine = machine or describe_machine().name
    of_claim = [row for row in results if row.claim == claim.id and can_judge(claim, row)]
    if not of_claim:
        return Verdict(claim, OPEN, "No result is recorded yet.")
    return judge(claim, max(of_claim, key=lambda row: (row.value is not None, row.machine == machine, row.date)))


def can_judge(claim: Claim, row: Row) -> bool:
    """Whether the row's date and figure can be a result's; that of a statement is true or false (1 or 0)."""
    possible = row.value in (None, 0, 1) if claim.check == "holds" else row.find_odd_figure() is None
    return possible and row.find_odd_date() is None and not row.is_too_noisy()


def judge(claim: Claim, row: Row) -> Verdict:
    """The verdict that this one row gives."""
    place = f"{row.machine} ({row.backend}{f', {row.model}' if row.model else ''})"
    note = f" {row.note}" if row.note else ""
    if row.value is None:
        return Verdict(claim, WAITS, f"It needs {row.missing}; none on {place}.{note}", row)
    if row.is_too_noisy():
        return Verdict(claim, OPEN, f"{TOO_NOISY}: {row.number:.3g} ± {row.spread:.2g} {claim.unit} on {place}.", row)
    status = RULES[claim.check](claim, row)
    if claim.check == "holds":
        return Verdict(claim, status, f"Found {'true' if row.value else 'false'} on {place}.{note}", row)
    measured = f"Measured {format_number(row.value, 4)} {claim.unit} on {place}"
    return Verdict(claim, status, f"{measured}; the article says {format_number(claim.figure, 4)}.{note}", row)


def record(id: str, value: float | bool | Ratio, **details) -> Verdict:
    """Writes a result row for the claim and returns its verdict.

    Args:
        value: in the claim's unit; a `Ratio` brings its interval along, True and False stand for 1 and 0.
        details: spread, runs, model, clip, peak_bytes, note, backend, group, as in `rows.record`.

    ClaimError where the ledger has no such claim, or it is a statement and the value neither true nor false.
    """
    tested = claim(id)
    if isinstance(value, Ratio):
        details = {"spread": value.value - value.low, **details}
        details = {**load_fields(value.load), **details}
    number = float(value.value if isinstance(value, Ratio) else value)
    if tested.check == "holds" and number not in (0, 1):
        raise ClaimError(f"Claim {id} is a statement: its result is true or false, not {number:g}.", where=id)
    return judge(tested, rows.record(tested.text, number, tested.unit, claim=id, **details))


def record_missing(id: str, missing: str, **details) -> Verdict:
    """Writes a row that names what this machine lacks to test the claim; ClaimError unless it is one of its `needs`."""
    tested = claim(id)
    if missing not in tested.needs:
        needs = ", ".join(tested.needs) or "nothing special"
        raise ClaimError(f"Claim {id} does not wait for {missing!r}.", where=id, hint=f"It needs {needs}.")
    return judge(tested, rows.record(tested.text, None, tested.unit, claim=id, missing=missing, **details))
