"""One table in three forms, and numbers in it."""

from __future__ import annotations

import pytest

from labsupport.base.tables import (
    drop_empty_columns,
    format_bytes,
    format_number,
    format_seconds,
    html_table,
    markdown_table,
    text_table,
)

LINES = [["name", "kind", "ms"], ["a|b", "", "3"], ["<c>", "x", "100"]]


def test_text_is_aligned_and_ends_without_spaces():
    assert text_table(LINES, left=2).splitlines() == ["name  kind   ms", "a|b           3", "<c>   x     100"]
    assert text_table([["a", "b"], ["c", ""]]).splitlines() == ["a  b", "c"]


def test_markdown_escapes_what_would_end_a_cell():
    assert markdown_table(LINES, left=2).splitlines() == [
        "| name | kind | ms |",
        "| --- | --- | ---: |",
        "| a\\|b |  | 3 |",
        "| <c> | x | 100 |",
    ]


def test_a_cell_cannot_leave_its_line_or_hide_what_follows():
    lines = [["a", "b"], ["one\ntwo\r\x1b[2J", "<!-- x"]]
    assert markdown_table(lines).splitlines()[2:] == ["| one two \\x1b[2J | &lt;!-- x |"]
    assert len(text_table(lines).splitlines()) == 2


def test_html_escapes_tags():
    table = html_table(LINES, left=2)
    assert "<th>name</th>" in table
    assert '<td>&lt;c&gt;</td><td>x</td><td style="text-align: right">100</td>' in table


def test_lines_of_different_lengths_are_refused():
    for render in (text_table, html_table):
        with pytest.raises(ValueError, match="zip"):
            render([["a", "b"], ["c"]])


def test_a_column_without_contents_is_left_out():
    assert drop_empty_columns({"a": ["1", ""], "b": ["", ""], "c": ["2", "3"]}) == [["a", "c"], ["1", "2"], ["", "3"]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.345, "12.3 s"), (1, "1 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 µs"), (0, "0 µs")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(3.2e9, "3.2 GB"), (41e6, "41.0 MB"), (-2e9, "-2.0 GB"), (0, "0.0 MB")])
def test_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (72_593_920, 3, "72.6 million"),
        (72_593_920, 4, "72.59 million"),
        (1_543_490_560, 4, "1.543 billion"),
        (999_999_999, 3, "1 billion"),
        (39e6, 6, "39 million"),
        (-2_500_000, 3, "-2.5 million"),
        (3e12, 3, "3 trillion"),
        (12_345, 3, "12,300"),
        (6000, 6, "6000"),
        (1.118, 4, "1.118"),
        (0, 3, "0"),
        (0.0000123, 3, "0.0000123"),
        (1e30, 3, "1e+30"),
    ],
)
def test_a_number_is_written_for_people(value, digits, text):
    assert format_number(value, digits) == text
