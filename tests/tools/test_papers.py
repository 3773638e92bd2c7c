"""The generated parts of the papers, and that every name in them exists."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

import papers
import pytest
from papers import HEADLINES, Headline, fill, find_gain

from labsupport import cli
from labsupport.base.errors import CourseError
from labsupport.base.paths import ROOT
from labsupport.course.report import Lesson
from labsupport.results.claims import Claim
from labsupport.results.rows import Row

PAPERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
SOURCES = [*sorted((ROOT / "labsupport").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py"))]
FOLDERS = ("labsupport", "notebooks", "data", "tests", "tools")
TEXT = "# A\n<!-- generated: map -->\nold\n<!-- /generated -->\nkept\n<!-- generated: other -->\n<!-- /generated -->\n"
STEP = Headline("01_a", "a step", "as fast", "base", "step", "old", "new")
DATE = "2026-01-02T03:{:02d}:00+00:00"


def row(what, value, minute=0, commit="abc", **fields):
    return Row(what, value, "s", "toy", "torch", DATE.format(minute), commit, **{"model": "base", **fields})


# --- generated parts


def test_generated_parts_are_replaced_and_the_rest_stays():
    filled = fill(TEXT, {"map": "new\nlines", "other": "x"})
    assert filled == TEXT.replace("old\n", "new\nlines\n").replace("other -->\n", "other -->\nx\n")
    assert fill(filled, {"map": "new\nlines", "other": "x"}) == filled


@pytest.mark.parametrize("parts", [{"map": ""}, {"map": "", "other": "", "third": ""}])
def test_a_part_without_a_place_or_a_place_without_a_part_is_an_error(parts):
    with pytest.raises(CourseError, match="do not agree"):
        fill(TEXT, parts)


def test_the_map_links_each_notebook_and_names_its_frameworks_and_needs():
    course = [Lesson("01_a", "Measure", "Measure, and more.", 12, ["python3.10"], ["D"], ["torch", "mindspore"])]
    line = "| [01 Measure](notebooks/01_a.ipynb) | Measure | torch, mindspore; needs python3.10 | D | 12 |"
    assert line in papers.map_table(course)


def test_a_headline_compares_two_variants_of_one_session():
    gain = find_gain(STEP, [row("step: old", 3.0, spread=0.2), row("step: new", 1.0, spread=0.1)])
    assert gain.value == pytest.approx(3.0)
    assert gain.interval == pytest.approx((2.9 / 1.05, 3.1 / 0.95))


def test_a_headline_takes_the_ratio_of_the_pairs_where_it_was_recorded():
    given = [row("step: old", 3.0, spread=0.2), row("step: new", 1.0, spread=0.1)]
    paired = replace(given[1], gain=(2.5, 2.2, 2.8), against="old")
    assert (find_gain(STEP, [given[0], paired]).value, find_gain(STEP, [given[0], paired]).interval) == (
        2.5,
        (2.2, 2.8),
    )
    other = replace(given[1], gain=(2.5, 2.2, 2.8), against="older")
    assert find_gain(STEP, [given[0], other]).value == pytest.approx(3.0)


@pytest.mark.parametrize(("low", "shown"), [(0.99, False), (1.0, False), (1.01, True)])
def test_a_gain_whose_interval_holds_one_is_no_result(low, shown):
    given = [row("step: old", 3.0), replace(row("step: new", 1.0), gain=(2.63, low, 3.5), against="old")]
    gain = find_gain(STEP, given)
    assert gain.shown == shown
    ends = f"{low:.2f} to 3.50"
    expected = f"2.63 times as fast ({ends})" if shown else f"no difference ({ends} times as fast)"
    assert gain.describe("as fast") == expected
    assert expected in papers.headline_table({STEP: gain})
    drawn = papers.draw_gains({STEP: gain, replace(STEP, label="another"): replace(gain, interval=None)})
    assert drawn.count(b"<!-- a step: as fast -->") == shown
    assert drawn.count(b"<!-- another: as fast -->") == 1


def test_a_later_session_without_a_gain_is_not_passed_over_for_an_earlier_one_with():
    earlier = [row("step: old", 3.0, spread=0.1), row("step: new", 1.0, spread=0.1)]
    later = [row("step: old", 3.0, 30, spread=0.1), row("step: new", 3.0, 30, spread=0.1)]
    assert not find_gain(STEP, [*earlier, *later]).shown


def test_a_headline_takes_no_ratio_from_two_machines():
    given = [row("step: old", 3.0), replace(row("step: new", 1.0), machine="other")]
    with pytest.raises(CourseError, match="'a step'"):
        find_gain(STEP, given)


def test_a_headline_takes_no_ratio_from_two_sessions():
    for later in ({"minute": 9}, {"commit": "abd"}):
        with pytest.raises(CourseError, match="'a step'"):
            find_gain(STEP, [row("step: old", 3.0), row("step: new", 1.0, **later)])


def test_a_headline_takes_no_fast_and_no_noisy_session():
    whole = [row("step: old", 3.0, spread=0.1), row("step: new", 1.0, spread=0.1)]
    wide = {"spread": 0.1, "gain": (2.63, 1.01, 5.21), "against": "old"}
    for fields in ({"fast": True, "spread": 0.1}, {"spread": 2.5}, wide):
        later = [row("step: old", 9.0, 30, **fields), row("step: new", 1.0, 30, **fields)]
        assert find_gain(STEP, [*whole, *later]).value == 3.0
        with pytest.raises(CourseError, match="'a step'"):
            find_gain(STEP, later)


def test_a_recorded_ratio_brings_its_interval():
    ratio = replace(row("the article's words", 2.0, spread=0.5, claim="A2"), unit="times")
    gain = find_gain(Headline("01_a", "a", "as fast", "base", claim="A2"), [row("the article's words", 9.0), ratio])
    assert (gain.value, gain.interval) == (2.0, (1.5, 2.5))
    with pytest.raises(CourseError):
        find_gain(Headline("01_a", "a", "as fast", "base", claim="A3"), [ratio])


ODD = [
    {"value": 0.0}, {"value": 1e308}, {"value": -1.0}, {"unit": "bytes", "value": 0}, {"spread": 1e308},
    {"date": "9999-01-01T00:00:00+00:00"},
]  # fmt: skip


@pytest.mark.parametrize("fields", ODD, ids=str)
def test_no_row_takes_part_in_a_headline_that_can_be_no_result(fields):
    good = [row("step: old", 3.0, spread=0.2), row("step: new", 1.0, spread=0.1)]
    odd = [replace(row(f"step: {name}", 1.0, 1), **fields) for name in ("old", "new")]
    assert find_gain(STEP, [*good, *odd]) == find_gain(STEP, good)


def test_a_machine_s_name_cannot_break_the_table():
    gain = find_gain(
        STEP, [replace(row(f"step: {name}", 1.0), machine="a|\n<!-- /generated -->") for name in ("old", "new")]
    )
    _heading, _rule, *lines = papers.headline_table({STEP: gain}).splitlines()
    assert len(lines) == 1
    assert fill(f"<!-- generated: x -->\n{lines[0]}\n<!-- /generated -->", {"x": "y"}).count("y") == 1
    assert "<!--" not in lines[0]


def test_verdicts_are_counted_from_rows():
    ledger = [Claim(f"A{n}", "A", "x", "", 1.7, "times", "ratio", "", ()) for n in (1, 2)]
    counted = papers.verdict_counts(ledger, [replace(row("x", 1.3, spread=0.1, claim="A1"), unit="times")])
    assert counted == "Of the articles' 2 claims: 1 same direction, 1 open."


# --- the committed papers


def test_the_papers_are_up_to_date():
    assert papers.update(check=True) == [], "run `.venv/bin/python tools/papers.py`"


def test_a_check_names_what_is_out_of_date_and_writes_nothing(monkeypatch, tmp_path, capsys):
    readme, picture = tmp_path / "README.md", tmp_path / "gains.svg"
    monkeypatch.setattr(papers, "ROOT", tmp_path)
    monkeypatch.setattr(papers, "make", lambda: {readme: "new\n", picture: "same\n"})
    readme.write_text("old\n")
    picture.write_text("same\n")
    assert papers.main(["--check"]) == 1
    assert (capsys.readouterr().out, readme.read_text()) == ("out of date: README.md\n", "old\n")
    assert papers.main([]) == papers.main(["--check"]) == 0
    assert (capsys.readouterr().out, readme.read_text()) == ("rewrote README.md\n", "new\n")


def test_the_readme_is_as_long_as_a_reader_bears_and_shows_eight_optimisations():
    assert 900 <= len(papers.README.read_text(encoding="utf-8").split()) <= 1200
    assert len({headline.notebook for headline in HEADLINES}) == 8


# --- names in papers and docstrings


def exists(name: str) -> bool:
    """Whether this dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (None, name) and not name.startswith(error.name):
            return True  # a package that this machine lacks, such as MindSpore
        return bool(module) and exists_in(module, attribute)
    return True


def exists_in(module: str, attribute: str) -> bool:
    if (ROOT / module.replace(".", "/")).with_suffix(".py").exists() or (ROOT / module.replace(".", "/")).is_dir():
        return hasattr(importlib.import_module(module), attribute)
    outer, _, name = module.rpartition(".")
    return bool(outer) and exists_in(outer, name)


def commands() -> set[str]:
    """What may follow `./lab`: the package's commands, and the bootstrap's own."""
    plain = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    benches = {f"bench {command.name}" for command in cli.bench.app.registered_commands}
    return {"setup", "bench", *plain, *benches}


def find_faults(text: str) -> list[str]:
    """Commands, modules and paths between backticks that do not exist."""
    fenced = re.compile(r"^```\n(.*?)^```", re.M | re.S)
    quoted = "\n".join(fenced.findall(text) + re.findall(r"`([^`\n]+)`", fenced.sub("", text)))
    called = set(re.findall(r"(?:\./lab|python lab)(?: --\w+ \w+)*? (bench [a-z_]+|[a-z]\w*)", quoted))
    modules = {name for name in re.findall(r"\blabsupport(?:\.\w+)+", quoted) if not name.endswith(".py")}
    paths = set(re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w./-]+", quoted))
    return [
        *(f"./lab {name}" for name in called - commands()),
        *(name for name in modules if not exists(name)),
        *(path for path in paths if "NN_name" not in path and not (ROOT / path).exists()),
    ]


def find_dead_links(text: str) -> list[str]:
    return [path for path in re.findall(r"\]\(([\w./-]+)\)", text) if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_every_name_and_link_in_a_paper_exists(path):
    text = path.read_text(encoding="utf-8")
    assert find_faults(text) + find_dead_links(text) == []


def test_every_name_in_a_docstring_or_comment_exists():
    faults = {}
    for path in SOURCES:
        if found := find_faults(path.read_text(encoding="utf-8")):
            faults[str(path.relative_to(ROOT))] = found
    assert faults == {}


@pytest.mark.parametrize(
    "text",
    [
        "`./lab fly`", "`./lab bench fly`", "`labsupport.fly`", "`labsupport.base.errors.Fly`", "`data/fly.toml`",
        "`.venv/bin/python tools/fly.py`", "```\n./lab fly\n```",
    ],
)  # fmt: skip
def test_a_planted_name_is_found(text):
    assert len(find_faults(text)) == 1
    assert find_dead_links("[x](FLY.md)") == ["FLY.md"]
