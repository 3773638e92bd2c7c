"""The ledger: what the four articles claim, and the verdicts that recorded results give.

`data/claims.toml` holds the claims and no verdict. A verdict is computed from a result row by the claim's rule, and
a claim without a row is open. Each machine has its own verdict.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from labsupport import hardware, rows
from labsupport.errors import LabError
from labsupport.measure import Ratio
from labsupport.paths import DATA, read_toml
from labsupport.rows import Row

LEDGER = DATA / "claims.toml"
ARTICLES = {"A": "MindSpore Whisper", "B": "TPU-MLIR Whisper", "C": "Whisper memory", "D": "Bark"}
REPRODUCED, PARTLY, NOT_HERE, CORRECTED = "reproduced", "partly", "not here", "corrected"
WAITS, OPEN = "waits for hardware", "open"


class ClaimError(LabError):
    """The ledger is damaged, or a claim was asked for or recorded that it does not hold."""


@dataclass(frozen=True)
class Claim:
    """One claim of an article, in our words.

    Args:
        id: the article's letter and a number, "A1".
        setting: the hardware, model and input that the article names; empty where it names none.
        figure: what a result is compared with, in `unit`; 1 for a statement, whose results are
            1 (true) or 0 (false).
        check: the rule, a key of `RULES`.
        notebook: the one that tests it.
        quoted: the numbers as the article prints them, from which `figure` follows.
        tolerance: relative, for the rules that have one.
        needs: the hardware or weights without which it cannot be tested at all ("ascend", "cuda", "hub:large-v3").
    """

    id: str
    article: str
    text: str
    setting: str
    figure: float
    unit: str
    check: str
    notebook: str
    quoted: tuple[str, ...]
    tolerance: float = 0.0
    needs: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        figure = "" if self.check == "holds" else f" Figure: **{self.figure:g} {self.unit}**."
        needs = f" Needs: {', '.join(self.needs)}." if self.needs else ""
        setting = f" Setting: {self.setting}." if self.setting else ""
        return f"> **Claim {self.id}** ({ARTICLES[self.article]}): {self.text}\n>\n>{figure}{setting}{needs}"


@dataclass(frozen=True)
class Verdict:
    """What the results say of a claim: `status`, one sentence `why`, and the row it comes from (none if open)."""

    claim: Claim
    status: str
    why: str
    row: Row | None = None

    def __str__(self) -> str:
        return f"{self.claim.id}: {self.status}. {self.why}"

    def _repr_markdown_(self) -> str:
        return f"**{self.claim.id}: {self.status}.** {self.why}"


# --- the rules: (claim, row) -> status -----------------------------------------------------------------------------


def judge_ratio(claim: Claim, row: Row) -> str:
    """A gain of `figure` times: nothing if within the noise; nine tenths of it is enough; less is partly."""
    if row.value - (row.spread or 0.0) <= 1:
        return NOT_HERE
    return REPRODUCED if row.value >= 0.9 * claim.figure else PARTLY


def judge_equal(claim: Claim, row: Row) -> str:
    """A fact that is the same everywhere: a parameter count, a size, a piece of arithmetic."""
    return REPRODUCED if is_near(claim, row) else CORRECTED


def judge_near(claim: Claim, row: Row) -> str:
    """A measured figure that depends on the machine."""
    return REPRODUCED if is_near(claim, row) else NOT_HERE


def judge_at_most(claim: Claim, row: Row) -> str:
    return REPRODUCED if row.value <= claim.figure * (1 + claim.tolerance) else NOT_HERE


def judge_at_least(claim: Claim, row: Row) -> str:
    return REPRODUCED if row.value >= claim.figure * (1 - claim.tolerance) else NOT_HERE


def judge_holds(claim: Claim, row: Row) -> str:
    """A statement that code found true (1.0) or false (0.0)."""
    return REPRODUCED if row.value else CORRECTED


def is_near(claim: Claim, row: Row) -> bool:
    return math.isclose(row.value, claim.figure, rel_tol=0.0, abs_tol=abs(claim.figure) * claim.tolerance + 1e-12)


RULES: dict[str, Callable[[Claim, Row], str]] = {
    "ratio": judge_ratio,
    "equal": judge_equal,
    "near": judge_near,
    "at_most": judge_at_most,
    "at_least": judge_at_least,
    "holds": judge_holds,
}


# --- the ledger ----------------------------------------------------------------------------------------------------


def load(path: Path = LEDGER) -> list[Claim]:
    """All claims, in the file's order.

    Raises:
        ClaimError: a claim lacks a field, has one that no claim has (a verdict, say), or an id is there twice.
    """
    try:
        entries = read_toml(path).get("claim", [])
    except ValueError as error:
        raise ClaimError(f"The ledger is no TOML: {error}", where=path) from error
    claims = [parse_claim(entry, f"{path}, claim {number}") for number, entry in enumerate(entries, 1)]
    ids = [claim.id for claim in claims]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ClaimError(f"These ids are there twice: {', '.join(sorted(twice))}.", where=path)
    return claims


def parse_claim(entry: dict, where: str) -> Claim:
    """Checks one table of the ledger; raises ClaimError with `where`."""
    where = f"{where} ({entry.get('id')})"
    known = {field.name for field in fields(Claim)}
    required = {field.name for field in fields(Claim) if field.default is MISSING}
    if wrong := sorted(set(entry) - known):
        raise ClaimError(f"A claim has no field {wrong[0]!r}.", where=where, hint="A verdict comes from results alone.")
    if lacking := sorted(required - set(entry)):
        raise ClaimError(f"The claim lacks {', '.join(lacking)}.", where=where)
    lists = {name: tuple(entry.get(name, ())) for name in ("quoted", "needs")}
    claim = Claim(**{**entry, **lists})
    if problem := find_problem(claim):
        raise ClaimError(problem, where=where)
    return claim


def find_problem(claim: Claim) -> str | None:
    """What is wrong with the claim's values, if anything."""
    if claim.article not in ARTICLES or not re.fullmatch(rf"{claim.article}[1-9]\d*", claim.id):
        return "Its id must be its article's letter and a number."
    if claim.check not in RULES:
        return f"There is no rule {claim.check!r}; the rules are: {', '.join(RULES)}."
    if not isinstance(claim.figure, int | float) or not math.isfinite(claim.figure):
        return "Its figure must be a finite number."
    if claim.check == "holds" and claim.figure != 1:
        return "A statement's figure is 1."
    return None


def claim(id: str) -> Claim:
    """The claim of this id.

    Raises:
        ClaimError: the ledger has none.
    """
    for entry in load():
        if entry.id == id:
            return entry
    raise ClaimError(f"The ledger holds no claim {id!r}.", where=LEDGER)


# --- results and verdicts ------------------------------------------------------------------------------------------


def record(id: str, value: float | bool | Ratio, **details) -> Verdict:
    """Writes a result row for the claim and returns its verdict.

    Args:
        value: in the claim's unit; a `Ratio` brings its interval along, True and False stand for 1 and 0.
        details: spread, runs, model, clip, peak_bytes, note, backend, group, as in `rows.record`.

    Raises:
        ClaimError: the ledger has no such claim, or it is a statement and the value neither true nor false.
        RowError: a detail is not what it must be.
    """
    tested = claim(id)
    if isinstance(value, Ratio):
        value, details = value.value, {"spread": value.value - value.low, **details}
    if tested.check == "holds" and value not in (0, 1):
        raise ClaimError(f"Claim {id} is a statement: its result is true or false, not {value}.", where=id)
    return judge(tested, rows.record(tested.text, float(value), tested.unit, claim=id, **details))


def record_missing(id: str, missing: str, **details) -> Verdict:
    """Writes a row that says what this machine lacks to test the claim, one of its `needs`.

    Raises:
        ClaimError: the claim does not need it: then it can be tested here.
    """
    tested = claim(id)
    if missing not in tested.needs:
        needs = ", ".join(tested.needs) or "nothing special"
        raise ClaimError(f"Claim {id} does not wait for {missing!r}.", where=id, hint=f"It needs {needs}.")
    return judge(tested, rows.record(tested.text, None, tested.unit, claim=id, missing=missing, **details))


def verdict(claim: Claim, results: Iterable[Row], machine: str | None = None) -> Verdict:
    """The claim's verdict for a reader on `machine` (this one if None).

    A measurement beats a row that says what was missing; then the reader's own machine beats another; then the later
    row beats the earlier. The sentence names the machine, so that a stored result is never taken for an own one.
    """
    machine = machine or hardware.describe().name
    own = [row for row in results if row.claim == claim.id]
    if not own:
        return Verdict(claim, OPEN, "No result is recorded yet.")
    return judge(claim, max(own, key=lambda row: (row.value is not None, row.machine == machine, row.date)))


def verdicts_by_machine(claim: Claim, results: Iterable[Row]) -> dict[str, Verdict]:
    """The verdict of every machine that has a row for the claim: where machines disagree, all are shown."""
    by_machine = defaultdict(list)
    for row in results:
        if row.claim == claim.id:
            by_machine[row.machine].append(row)
    return {machine: verdict(claim, own, machine) for machine, own in sorted(by_machine.items())}


def judge(claim: Claim, row: Row) -> Verdict:
    """The verdict that this one row gives."""
    place = f"{row.machine} ({row.backend}{f', {row.model}' if row.model else ''})"
    note = f" {row.note}" if row.note else ""
    if row.value is None:
        return Verdict(claim, WAITS, f"It needs {row.missing}; none on {place}.{note}", row)
    status = RULES[claim.check](claim, row)
    if claim.check == "holds":
        return Verdict(claim, status, f"Found {'true' if row.value else 'false'} on {place}.{note}", row)
    measured = f"Measured {row.value:.4g} {claim.unit} on {place}"
    return Verdict(claim, status, f"{measured}; the article says {claim.figure:.4g}.{note}", row)
