import html.parser
import re
from dataclasses import replace

import pytest

from labsupport.base.json_lines import OddLine
from labsupport.base.paths import lab_dir
from labsupport.course import outcomes, report
from labsupport.course.outcomes import Failure, NotebookResult
from labsupport.course.report import Lesson, Results, find_gain, ladders
from labsupport.course.sessions import Session
from labsupport.machine.description import Machine
from labsupport.results import claims, verdicts
from labsupport.results.claims import Claim
from labsupport.results.rows import Row
from labsupport.results.verdicts import Verdict

MACHINE = Machine("toy-2c", "Toy <CPU>", 2, 1, 8 * 10**9, ("avx2",), (), {"torch": "2.13.0"}, "Toy OS", "3.11.7")
COURSE = [
    Lesson("01_a", "Measure", "You will measure.", 12, [], ["D"], ["torch", "mindspore"]),
    Lesson("02_b", "Cache", "You will cache.", 10, ["cuda"], [], ["torch"]),
    Lesson("03_c", "Later", "You will wait.", 5, [], [], ["torch"]),
]
RUNS = [
    NotebookResult(
        "01_a", "torch", "passed", "r", seconds=12.34, skips=["needs int8"], date="2026-01-02T03:04:05+00:00"
    ),
    NotebookResult("02_b", "torch", "skipped", "r", reason="needs CUDA; here: none"),
    NotebookResult("02_b", "mindspore", "failed", "r", failure=Failure("memory", "MemoryError: <all of it>", 3)),
]


def row(what, value, second=0, **fields):
    date = f"2026-01-02T03:04:{second:02d}+00:00"
    return Row(what, value, fields.pop("unit", "s"), "toy-2c", "torch", date, "abc", **fields)


RESULTS = [
    row("decoding: no cache", 2.0, 1, model="tiny.en", clip="jfk", spread=0.1, peak_bytes=10**9),
    row("decoding: cache", 0.5, 2, model="tiny.en", clip="jfk", spread=0.05),
    row("decoding: cache", 9.0, 4, model="base", clip="jfk"),
    row("claimed: x", 3.0, 5, claim="A1"),
    row("size: x", 3.0, 6, unit="bytes"),
    row("a sentence", 3.0, 7),
    row("ops of a step: MatMul", 4.0, 8, unit="ms"),
    row("ops of a step: Tile", 2.0, 8, unit="ms"),
    row("ops of a step: MatMul", 3.0, 9, unit="ms", note="12 calls"),
    row("ops of a step: Concat", 1.0, 9, unit="ms"),
    row("speaking: plain, 1 at a time", 0.25, 10, unit="samples/s", peak_bytes=400 * 10**6),
    row("speaking: small, 1 at a time", 0.2, 10, unit="samples/s", peak_bytes=100 * 10**6),
    row("speaking: no memory known", 9.0, 10, unit="samples/s"),
    row("estimate: Tile", 200, 10, unit="cycles"),
    row("estimate: broadcast", 100, 11, unit="cycles"),
]


def verdict(article, number, status):
    claim = Claim(f"{article}{number}", article, f"Claim <{number}>", "", 1.7, "times", "ratio", "01", ())
    return Verdict(claim, status, "because")


def page(course, runs, results, found=(), machine=MACHINE, odd=(), **others):
    """The page of a learner who has these rows, with a ledger of these verdicts' claims."""
    given = results if isinstance(results, Results) else Results(own=results, odd=odd)
    return report.page(course, runs, given, machine, ledger=[each.claim for each in found], **others)


CLAIMS = [claim for claim in claims.load() if claim.id in ("A1", "A9")]
VERDICTS = [
    verdict("A", 1, verdicts.SAME_DIRECTION),
    verdict("A", 2, verdicts.OPEN),
    verdict("D", 1, verdicts.CORRECTED),
]


@pytest.fixture(scope="module")
def text():
    return page(COURSE, RUNS, RESULTS, VERDICTS, MACHINE)


class Outline(html.parser.HTMLParser):
    """Collects tags with their attributes, and notices what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_outside(text):
    outline = Outline(text)
    assert outline.open == []
    pictures = [attributes["src"] for _, attributes in outline.tags if "src" in attributes]
    assert pictures
    assert all(picture.startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert all(attributes.get("href", "#").startswith("#") for _, attributes in outline.tags)
    assert "http" not in re.sub(r"data:[^\"]+", "", text)
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in outline.tags}


def test_links_lead_to_every_section(text):
    tags = Outline(text).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "h2"]


def test_every_picture_has_alt_text_with_its_numbers(text):
    alts = [attributes["alt"] for tag, attributes in Outline(text).tags if tag == "img"]
    assert len(alts) == 5
    assert "no cache 2 s; cache 0.5 s" in alts[0]
    assert "open 3" in alts[-1]


def test_the_page_can_be_read_on_a_phone(text):
    tags = Outline(text).tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in tags if tag == "meta")
    assert text.count("<table>") == text.count('<div class="wide">\n<table>')


def test_the_page_shows_how_each_notebook_went(text):
    for text_of_it in ("12.3 s", "skipped inside: needs int8", "Skipped: needs CUDA; here: none", "not run yet"):
        assert text_of_it in text
    assert "memory, code cell 3: MemoryError: &lt;all of it&gt;" in text
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "Toy &lt;CPU&gt;, 2 usable cores" in text
    assert "torch 2.13.0" in text


def test_the_page_of_a_lab_where_nothing_ran_yet_says_so():
    empty = page(COURSE, [], [], [], MACHINE)
    assert empty.count("not run yet") == 3
    assert "Nothing is measured yet" in empty


def test_ladders_hold_what_was_measured_together():
    first, second, estimate = ladders(RESULTS)
    assert [(name, row.value) for name, row in first.steps.items()] == [("no cache", 2.0), ("cache", 0.5)]
    assert first.setting == "tiny.en, jfk, torch, toy-2c"
    assert (second.model, list(second.steps)) == ("base", ["cache"])
    assert (estimate.unit, list(estimate.steps)) == ("cycles", ["Tile", "broadcast"])


SESSIONS = {
    "one": ([("a", 0, "x"), ("b", 1, "x")], [["a", "b"]]),
    "another commit": ([("a", 0, "x"), ("b", 1, "y")], [["a"], ["b"]]),
    "a pause": ([("a", 0, "x"), ("b", 200, "x")], [["a"], ["b"]]),
    "measured again": ([("a", 0, "x"), ("b", 1, "x"), ("a", 2, "x"), ("b", 3, "x")], [["a", "b"]]),
    "in part again": ([("a", 0, "x"), ("b", 1, "x"), ("a", 2, "x")], [["a", "b"], ["a"]]),
}


@pytest.mark.parametrize("case", SESSIONS)
def test_a_session_is_one_commit_without_a_pause_and_the_later_one_of_the_same_counts(case):
    measured, expected = SESSIONS[case]
    date = "2026-01-02T03:{:02d}:{:02d}+00:00"
    given = [
        Row(f"step: {name}", 1.0 + second, "s", "toy", "torch", date.format(*divmod(second, 60)), commit)
        for name, second, commit in measured
    ]
    found = ladders(given)
    assert [list(ladder.steps) for ladder in found] == expected
    assert list(found[-1].steps.values())[-1] == given[-1]


def of_run(name, second, run_id, value=1.0):
    return row(f"step: {name}", value, second, run_id=run_id)


def test_a_run_id_joins_a_session_and_parts_two_at_once():
    later = "2026-01-02T05:00:00+00:00"
    slow = [of_run("a", 0, "r"), replace(of_run("b", 1, "r"), date=later)]
    assert [list(ladder.steps) for ladder in ladders(slow)] == [["a", "b"]]
    mixed = [of_run("a", 0, "r"), of_run("a", 1, "s", 5.0), of_run("b", 2, "r"), of_run("b", 3, "s", 6.0)]
    parted = ladders([*mixed, of_run("c", 4, "r")])
    assert [{name: step.value for name, step in ladder.steps.items()} for ladder in parted] == [
        {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 5.0, "b": 6.0}
    ]  # fmt: skip


def test_a_pause_of_days_parts_two_sessions():
    first, second = row("step: a", 1.0), replace(row("step: b", 1.0), date="2026-01-05T03:04:09+00:00")
    assert [list(ladder.steps) for ladder in ladders([first, second])] == [["a"], ["b"]]


HOSTILE = {
    "zero": {"value": 0.0},
    "zero cycles": {"value": 0, "unit": "cycles"},
    "zero rate": {"value": 0, "unit": "samples/s", "peak_bytes": 1},
    "negative": {"value": -1.0},
    "hardly anything": {"value": 5e-324},
    "too much": {"value": 1e308},
    "an integer beyond floats": {"value": 10**300},
    "a wide spread": {"spread": 1e308},
    "much memory": {"value": 1.0, "unit": "samples/s", "peak_bytes": 10**300},
    "a formula": {"what": "cost in $\\frac{$: step_{"},
    "a long name": {"what": f"decoding: {'x' * 5000}"},
    "no name": {"what": ": "},
    "controls": {"what": "a\x1b[31m\x00: b\nc\u202e", "note": "\x07", "clip": "<script>alert(1)</script>"},
    "other scripts": {"what": "测试: шаг 🙂"},
    "markdown": {"machine": "a|b\n<!-- /generated -->"},
    "the future": {"date": "9999-12-31T23:59:59+00:00"},
    "long ago": {"date": "0001-01-01T00:00:00+00:00"},
    "ops of nothing": {"what": "ops of x: y", "value": 0.0, "unit": "ms"},
    "half a statement": {"value": 0.5, "claim": "A9"},
    "a claim in nothing": {"value": 0.0, "unit": "times", "claim": "A1"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_row_breaks_the_page_its_plots_or_the_verdicts(case):
    strange = replace(row("decoding: other", 1.0, 3, model="tiny.en", clip="jfk"), **HOSTILE[case])
    ledger = [verdicts.verdict(claim, [*RESULTS, strange], "toy-2c") for claim in CLAIMS]
    text = page(COURSE, RUNS, [*RESULTS, strange], ledger, MACHINE)
    assert Outline(text).open == []
    assert "<td>decoding<br><small>tiny.en, jfk, torch, toy-2c</small></td><td>no cache: 2 s</td>" in text
    assert not re.search(r"\binf\b|\bnan\b|\x1b|\x00|<script", text)
    assert "no cache 2 s; cache 0.5 s" in text


def test_a_page_names_the_lines_that_were_left_out():
    odd = [OddLine("/a/g.jsonl, line 2", "it is <torn>")] * 70
    text = page(COURSE, [], [], [], MACHINE, odd)
    assert "70 lines of the stored results" in text
    assert "/a/g.jsonl, line 2: it is &lt;torn&gt;" in text
    assert "and 20 more" in text
    assert "left out" not in page(COURSE, [], [], [], MACHINE)


def test_the_report_is_written_whatever_the_stored_rows_and_names_hold(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(report, "ladder_plot", lambda ladder: "")
    monkeypatch.setattr("labsupport.course.report.describe_machine", lambda: MACHINE)
    monkeypatch.setattr(report.rows, "REFERENCE", tmp_path)
    monkeypatch.setenv("MY_TOKEN", "correct-horse")
    file = report.rows.results_dir() / "m" / "g.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"what": "torn\n\xff\n')
    outcomes.store(
        NotebookResult("00_start_here", "torch", "failed", "r", failure=Failure("other", "\ud800 correct-horse"))
    )
    text = report.write().read_text(encoding="utf-8")
    assert f"{file}, line 1" in text
    assert f"{file}, line 2: it is not UTF-8" in caplog.text
    assert "correct-horse" not in text


def test_other_threads_are_another_setting():
    plain, pinned = ladders([row("step: a", 2.0), row("step: a", 3.0, 1, threads=1)])
    assert (plain.setting, pinned.setting) == ("torch, toy-2c", "torch, toy-2c, 1 thread")


def test_an_op_table_is_the_latest_one_alone():
    (table,) = report.op_tables(RESULTS)
    assert table.topic == "ops of a step"
    assert [(name, row.value) for name, row in table.steps.items()] == [("MatMul", 3.0), ("Concat", 1.0)]


def test_the_page_shows_an_op_table_and_an_estimate_with_their_units(text):
    assert re.findall(r"<td>MatMul</td><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td><td>(.*?)</td>", text) == [
        ("3 ms", "75.0 %", "12 calls")
    ]
    assert "100 cycles</td>" in text
    assert "Bars of the cycles of estimate (torch, toy-2c): Tile 200 cycles; broadcast 100 cycles." in text


def test_a_rate_is_drawn_against_the_memory_that_it_takes(text):
    told = "plain, 1 at a time 400 MB, 0.25 samples/s; small, 1 at a time 100 MB, 0.2 samples/s."
    assert f"speaking against peak memory (torch, toy-2c): {told}" in text
    assert "Speed against memory" not in page(COURSE, [], [], VERDICTS, MACHINE)


def test_the_report_is_written_from_what_is_stored_here(monkeypatch):
    monkeypatch.setattr(report, "ladder_plot", lambda ladder: f'<img alt="{ladder.topic}">')  # a hundred pictures
    monkeypatch.setattr("labsupport.course.report.describe_machine", lambda: MACHINE)
    path = report.write()
    assert path == lab_dir() / "report.html"
    assert "Machine and versions" in path.read_text()


# --- results at a glance ----------------------------------------------------------------------------------------------


def test_the_gains_compare_the_first_step_with_the_fastest(text):
    cells = re.findall(r"<td>decoding<br>[^\n]*?</td><td>(.*?)</td><td>(.*?)</td><td[^>]*>(.*?)</td>", text)
    assert cells == [("no cache: 2 s", "cache: 0.5 s", "4.00x")]


def test_a_lower_bound_is_shown_and_is_no_gain():
    steps = [row("step: static", 2.0), row("step: growing", 2.0, 1), row("step: reading alone", 1.0, 2)]
    (ladder,) = ladders(steps)
    assert "reading alone" in ladder.steps
    assert find_gain(ladder) is None


def test_what_gained_nothing_beyond_its_spread_is_listed_apart():
    steps = [row("conv: old", 1.0, 1, spread=0.05), row("conv: new", 0.97, 2, spread=0.05)]
    text = page(COURSE, [], [*RESULTS, *steps], [], MACHINE)
    assert "no gain beyond the spread: conv (torch, toy-2c)." in text


def test_a_gain_from_one_run_is_marked():
    steps = [row("step: old", 2.0, runs=1), row("step: new", 1.0, 1, runs=1)]
    assert ">2.00x (one run)</td>" in page(COURSE, [], steps, [], MACHINE)


def test_verdicts_are_counted_per_article_from_rows():
    table = report.verdicts_table(
        [found.claim for found in VERDICTS], [row("x", 1.3, spread=0.1, claim="A1", unit="times")]
    )
    assert "| A: MindSpore Whisper | 2 | 0 | 1 | 0 | 0 | 0 | 0 | 1 |" in table
    assert "| D: Bark | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 1 |" in table


def test_the_gain_of_the_pairs_beats_that_of_the_medians_and_is_none_if_its_interval_holds_one():
    for interval, expected in (((1.2, 2.1), ("old", "new", 1.5)), ((0.95, 2.1), None), ((1.2, 5.21), None)):
        given = [row("x: old", 3.0, 0), row("x: new", 1.0, 1, gain=(1.5, *interval), against="old")]
        assert report.find_gain(report.ladders(given)[0]) == expected


def test_a_gain_stands_with_the_pairs_interval_and_its_marks_and_never_beside_another_figure():
    given = [row("x: old", 3.0, 0), row("x: new", 1.0, 1, gain=(1.5, 1.2, 2.1), against="old", fast=True)]
    text = page(COURSE, [], given, [], MACHINE)
    assert ">1.50x (1.20 to 2.10; fast)</td>" in text
    assert ">1.50x (1.20 to 2.10)</td>" in text
    assert "3.00x" not in text


# --- the learner's own, and what came with the course -----------------------------------------------------------------


def test_own_results_come_first_and_apart_though_both_machines_have_one_name():
    theirs = [row("decoding: no cache", 8.0, 1), row("decoding: cache", 1.0, 2)]
    text = page(COURSE, RUNS, Results(own=RESULTS, reference=theirs))
    own, reference = text.split('<h2 id="reference">')
    assert "4.00x" in own
    assert "8.00x" not in own
    assert "8.00x" in reference
    assert "4.00x" not in reference


def test_rows_that_no_notebook_recorded_and_those_of_tests_are_not_the_learner_s(monkeypatch, tmp_path):
    monkeypatch.setattr(report.rows, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(report.rows, "is_check", lambda: False)
    report.rows.record("step: a", 1.0, "s", group="01_a")
    report.rows.record("step: b", 2.0, "s")
    monkeypatch.setattr(report.rows, "is_check", lambda: True)
    report.rows.record("step: c", 3.0, "s", group="01_a")
    monkeypatch.setattr(report.rows, "is_check", lambda: False)
    results = report.read_results()
    assert [each.what for each in results.own] == ["step: a"]
    assert results.unnamed == 1
    assert "1 row in <code>other.jsonl</code>" in page(COURSE, [], results)


def test_results_that_go_among_the_reference_rows_are_no_learner_s(monkeypatch, tmp_path):
    monkeypatch.setattr(report.rows, "REFERENCE", tmp_path)
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    written = report.rows.record("step: a", 1.0, "s", group="01_a")
    assert (report.read_results().own, report.read_results().reference) == ((), [written])


A1 = next(claim for claim in CLAIMS if claim.id == "A1")


def test_a_fast_run_is_shown_and_changes_no_total():
    fast = row("claimed", 95.0, 1, claim="A1", fast=True)
    reference = [row("claimed", 500.0, 1, claim="A1")]
    results = Results(own=[fast], reference=reference)
    text = report.page(COURSE, [], results, MACHINE, ledger=[A1])
    before = report.page(COURSE, [], Results(reference=reference), MACHINE, ledger=[A1])
    totals = re.compile(r"<p>(Your own|The ledger, by the reference results), without fast runs: .*?</p>")
    assert [match[0] for match in totals.finditer(text)] == [match[0] for match in totals.finditer(before)]
    assert "A fast run: it counts in no total." in text
    assert sum(report.count_own([A1], results, "toy-2c").values()) == 0
    slow = replace(fast, fast=False)
    assert sum(report.count_own([A1], Results(own=[fast, slow]), "toy-2c").values()) == 1


def test_a_fast_reference_row_counts_as_open():
    for fast, status in ((True, "open"), (False, "same direction")):
        found = verdicts.verdict(A1, [row("claimed", 95.0, 1, claim="A1", fast=fast, spread=1.0)])
        assert report.count_verdicts([found])[status] == 1


def test_noise_and_a_busy_machine_are_marked_and_noise_gives_no_verdict_and_no_gain():
    noisy = row("claimed", 95.0, 1, claim="A1", spread=60.0)
    busy = row("claimed", 95.0, 2, claim="A1", load_during=0.8)
    found = report.own_verdicts([A1], Results(own=[noisy]), "toy-2c")["A1"]
    assert found.status == "open"
    assert "too noisy to judge, run again" in found.why
    assert "Measured on a busy machine." in report.own_verdicts([A1], Results(own=[busy]), "toy-2c")["A1"].why
    steps = [row("step: old", 5.0, spread=0.1), row("step: new", 1.0, 1, spread=0.6, load_before=0.5)]
    assert find_gain(ladders(steps)[0]) is None
    assert "<td>too noisy, busy</td>" in page(COURSE, [], steps)


def test_work_in_jupyterlab_counts_and_a_check_is_called_one():
    kernels = [
        Session("01_a", "JupyterLab", 9, 9, "2026-11-27T10:00:00+00:00", "torch"),
        Session("02_b", "JupyterLab", 4, 9, "2026-11-26T10:00:00+00:00", "torch"),
        Session("03_c", "pytest --nbval", 9, 9, "2026-11-25T10:00:00+00:00", "torch"),
    ]
    text = page(COURSE, [], [], kernels=kernels)
    assert '<span class="badge passed">run in JupyterLab on 2026-11-27</span>' in text
    assert '<span class="badge none">4 of 9 code cells run in JupyterLab on 2026-11-26</span>' in text
    assert '<span class="badge none">checked by pytest --nbval on 2026-11-25</span>' in text
    assert "not run yet" not in text
