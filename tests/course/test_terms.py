"""Terms of the field are explained where a page uses them first: in the reading order, with a link to the glossary."""

import json
import re

import pytest

from labsupport.base.paths import DATA, NOTEBOOKS

LINK = "](../data/glossary.md)"
# The term as prose has it, the glossary's entry, and the variable that a cell of code may use before.
TERMS = [
    ("log-mel", "log-mel", "log_mels"),
    ("logits", "logits", "logits"),
    ("prompt", "prompt", "prompt"),
    ("1500 frames", "encoder frame", ""),
    ("heads", "heads", "heads"),
    ("norms", "norm", "norms"),
    ("GELU", "GELU", "gelu"),
    ("beam search", "beam search", "beams"),
    ("beams", "beam search", ""),
    ("roofline", "roofline", "roofline"),
]
CELLS = [cell for path in sorted(NOTEBOOKS.glob("*.ipynb")) for cell in json.loads(path.read_text("utf-8"))["cells"]]


def find_first(cells, term, variable):
    """The first cell that uses the term in prose or as a variable; its place, and what it says up to the term's end."""
    for place, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.search(rf"(?<![\w-]){re.escape(term)}(?![\w])(\]\([^)]*\))?", source)
        else:
            found = variable and re.search(rf"(?<![\w.\"]){variable}\b(?=.*=)", source)
        if found:
            return place, found.group()
    raise AssertionError(f"no page uses {term!r}: take it off this list")


def check_term(cells, term, variable):
    place, found = find_first(cells, term, variable)
    assert found == term + LINK, f"cell {place} uses {term!r} first, and does not link it to the glossary: {found!r}"


@pytest.mark.parametrize(("term", "variable"), [(term, variable) for term, _, variable in TERMS])
def test_a_term_is_linked_to_the_glossary_where_it_is_first_used(term, variable):
    check_term(CELLS, term, variable)


@pytest.mark.parametrize("entry", sorted({entry for _, entry, _ in TERMS}))
def test_the_glossary_explains_it(entry):
    assert f"**{entry}**: " in (DATA / "glossary.md").read_text("utf-8")


def page(*cells):
    return [{"cell_type": kind, "source": [source]} for kind, source in cells]


LINKED = ("markdown", f"The [logits{LINK} are scores.")


@pytest.mark.parametrize(
    "before",
    [
        ("markdown", "The logits are scores."),
        ("markdown", "The [logits](other.md) are scores."),
        ("code", "x = 1\nlogits = model(x)"),
    ],
)
def test_an_earlier_use_is_found(before):
    check_term(page(LINKED, before), "logits", "logits")
    with pytest.raises(AssertionError, match="uses 'logits' first"):
        check_term(page(before, LINKED), "logits", "logits")
