"""The ledger of the articles' claims."""

from __future__ import annotations

import re

import pytest

from labsupport.base.errors import ClaimError
from labsupport.results import claims, verdicts

LEDGER = claims.load()
NEEDS = {"ascend", "cuda", "sophon", "hub:large-v3"}


def test_ledger_covers_the_four_articles():
    assert len(LEDGER) >= 40
    assert {claim.article for claim in LEDGER} == set("ABCD")
    assert len({claim.id for claim in LEDGER}) == len(LEDGER)


def test_every_claim_is_complete_and_in_our_words():
    for claim in LEDGER:
        assert re.fullmatch(r"(\d\d[a-z]?_[a-z0-9_]+)?", claim.notebook), claim.id
        assert set(claim.needs) <= NEEDS, claim.id
        assert claim.text.endswith("."), claim.id
        assert claim.unit, claim.id
        assert not re.search("[\u4e00-\u9fff]", claim.text + claim.setting), claim.id


def test_every_rule_is_used_and_only_statements_have_their_unit():
    assert {claim.check for claim in LEDGER} == set(verdicts.RULES) == set(claims.CHECKS)
    for claim in LEDGER:
        assert (claim.check == "holds") == (claim.unit == "true or false"), claim.id


def test_every_claim_that_belongs_to_a_setting_names_it_for_the_machine():
    """Else any result at all would be of the same setting, and reproduce it."""
    for claim in LEDGER:
        named = claim.model or claim.device or claim.version
        assert bool(named) == (claim.kind != "definition"), claim.id
        assert not claim.needs or claim.kind != "definition", claim.id


def test_a_rule_that_judges_noise_has_a_kind_that_has_it():
    for claim in LEDGER:
        if claim.unit in ("s", "ms", "times as fast", "times the time", "times the throughput", "RTF"):
            assert claim.kind == "measured", claim.id


def test_a_claim_shows_its_text_figure_and_setting():
    claim = claims.claim("C1")
    shown = claim._repr_markdown_()
    for part in ("C1", claim.text, "750 million parameters", claim.setting):
        assert part in shown


def test_unknown_claim_is_a_clear_error():
    with pytest.raises(ClaimError, match="Z9"):
        claims.claim("Z9")


GOOD = """
[[claim]]
id = "A1"
article = "A"
text = "t."
setting = ""
figure = 1
unit = "times"
check = "near"
kind = "measured"
notebook = ""
quoted = []
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + 'verdict = "reproduced"\n', "no field 'verdict'"),
        (GOOD + 'status = "reproduced"\n', "no field 'status'"),
        (GOOD.replace("figure = 1\n", ""), "lacks figure"),
        (GOOD.replace('"near"', '"feeling"'), "no rule 'feeling'"),
        (GOOD.replace("figure = 1", "figure = nan"), "finite"),
        (GOOD.replace("figure = 1", 'figure = "1"'), "finite"),
        (GOOD.replace('id = "A1"', 'id = "B1"'), "article's letter"),
        (GOOD.replace('"near"', '"holds"').replace("figure = 1", "figure = 2"), "statement's figure"),
        (GOOD.replace('"near"', '"gain"').replace("figure = 1", "figure = 2"), "a gain without a size"),
        (GOOD.replace('"near"', '"ratio"'), "differ from what means no effect"),
        (GOOD.replace('"near"', '"equal"'), "is for definitions"),
        (GOOD.replace('"measured"', '"felt"'), "no kind 'felt'"),
        (GOOD.replace('kind = "measured"\n', ""), "lacks kind"),
        (GOOD + GOOD, "twice: A1"),
        (GOOD + "=", "no TOML"),
    ],
)
def test_damaged_ledger_is_refused(tmp_path, content, message):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD)
    assert len(claims.load(path)) == 1
    path.write_text(content)
    with pytest.raises(ClaimError, match=message) as caught:
        claims.load(path)
    assert str(path) in str(caught.value)
