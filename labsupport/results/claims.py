"""The ledger: what the four articles claim. `data/claims.toml` holds the claims alone; for verdicts see `verdicts`."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from labsupport.base.errors import ClaimError
from labsupport.base.paths import DATA, read_toml
from labsupport.base.tables import format_number

LEDGER = DATA / "claims.toml"
ARTICLES = {"A": "MindSpore Whisper", "B": "TPU-MLIR Whisper", "C": "Whisper memory", "D": "Bark"}
CHECKS = ("ratio", "gain", "equal", "near", "at_most", "growth", "rises", "holds")  # the rules, see `verdicts`
KINDS = ("definition", "counted", "measured")  # of truth, see `Claim`


@dataclass(frozen=True)
class Claim:
    """One claim of an article, in our words.

    Args:
        id: the article's letter and a number, "A1".
        setting: the hardware, model and input that the article names; empty where it names none.
        figure: what a result is compared with, in `unit`; 1 for a statement, whose results are 1 (true) or 0 (false).
        check: the rule, one of `CHECKS`.
        notebook: the one that tests it.
        kind: what decides it. "definition": arithmetic, a model's definition or printed code, the same on any machine.
            "counted": bytes, tokens or graph nodes, which have no noise and belong to one model and program.
            "measured": what has noise, so that one number without an interval decides nothing.
        model, device, clip, version: what makes another result one of the same setting; empty where the article leaves
            it open. `device` is part of a row's ("ascend", "titan-rtx"), `version` a package and how its begins
            ("mindspore 2.5").
        neutral: the figure that means no effect: 1 for ratios, 0 for a part that is saved.
        changed: what has changed since the article, with the version, if it is true of the article's version alone.
        since: the date (or minute, UTC) when its test took its present form; results from before are no longer judged.
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
    kind: str = "measured"
    model: str = ""
    device: str = ""
    clip: str = ""
    version: str = ""
    neutral: float = 1.0
    changed: str = ""
    since: str = ""

    def _repr_markdown_(self) -> str:
        effect = self.check in ("holds", "gain", "growth", "rises")
        figure = "" if effect else f" Figure: **{format_number(self.figure, 6)} {self.unit}**."
        needs = f" Needs: {', '.join(self.needs)}." if self.needs else ""
        setting = f" Setting: {self.setting}." if self.setting else ""
        return f"> **Claim {self.id}** ({ARTICLES[self.article]}): {self.text}\n>\n>{figure}{setting}{needs}"


def load(path: Path = LEDGER) -> list[Claim]:
    """All claims, in the file's order; ClaimError where one is not whole, or an id is there twice."""
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
    required = {field.name for field in fields(Claim) if field.default is MISSING} | {"kind"}
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
    if claim.check not in CHECKS:
        return f"There is no rule {claim.check!r}; the rules are: {', '.join(CHECKS)}."
    if not isinstance(claim.figure, int | float) or not math.isfinite(claim.figure):
        return "Its figure must be a finite number."
    if claim.check in ("holds", "gain") and claim.figure != 1:
        return "A statement's figure is 1, and that of a gain without a size."
    if claim.kind not in KINDS:
        return f"There is no kind {claim.kind!r}; the kinds are: {', '.join(KINDS)}."
    if claim.check == "equal" and claim.kind != "definition":
        return "The rule 'equal' is for definitions; a figure that depends on a machine is 'near'."
    if claim.changed and not claim.version:
        return "What has changed since needs the version for which it was true."
    if claim.check == "ratio" and claim.figure == claim.neutral:
        return "A ratio's figure must differ from what means no effect."
    return None


def claim(id: str) -> Claim:
    """The claim of this id; ClaimError where the ledger has none."""
    ledger = {entry.id: entry for entry in load()}
    if id not in ledger:
        raise ClaimError(f"The ledger holds no claim {id!r}.", where=LEDGER)
    return ledger[id]
