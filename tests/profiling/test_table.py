"""The op table: sums of the calls, shares, what a page shows."""

from __future__ import annotations

from collections import defaultdict

import pytest
from small_work import two_phases

from labsupport import profiling
from labsupport.profiling.table import Table, make_table


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return profiling.profile(two_phases, tmp_path_factory.mktemp("profile"))


def test_rows_are_sums_of_the_calls(profile):
    calls = defaultdict(list)
    for event in profile.events:
        calls[event.name].append(event.self_ms)
    table = profile.table()
    assert {row.name for row in table} == set(calls)
    for row in table:
        times = calls[row.name]
        assert (row.calls, row.total_ms) == (len(times), pytest.approx(sum(times)))
        assert (row.max_ms, row.mean_ms) == (max(times), pytest.approx(sum(times) / len(times)))


def test_shares_add_up_and_ops_fill_no_more_than_the_wall_time(profile):
    table = profile.table()
    assert sum(row.share for row in table) == pytest.approx(1)
    assert sum(row.share for row in table.by_kind()) == pytest.approx(1)
    assert sum(row.total_ms for row in table) <= profile.wall_ms


def test_a_table_shows_its_first_rows_and_the_sum_of_the_others():
    rows = make_table((f"op{n}", "other", 2, 10.0 + n, 6.0, "cpu") for n in range(20))
    heading, *lines = rows.cells()
    assert heading == ["name", "kind", "calls", "total ms", "mean ms", "max ms", "share", "device"]
    assert len(lines) == 16
    assert lines[0][:4] == ["op19", "other", "2", "29.0"]
    assert lines[-1] == ["5 more", "", "10", "60.0", "6", "6", "15.4 %", "cpu"]
    assert rows._repr_markdown_().splitlines()[-1] == "| `5 more` |  | 10 | 60.0 | 6 | 6 | 15.4 % | cpu |"


def test_an_empty_table_is_shown_as_nothing():
    assert repr(Table(())) == ""


def test_each_device_has_shares_of_its_own_and_the_accelerator_stands_first():
    table = make_table([("launch", "other", 1, 9.0, 9.0, "cpu"), ("gemm", "matmul", 3, 1.0, 1.0, "npu")])
    assert [(row.name, row.share) for row in table] == [("gemm", 1.0), ("launch", 1.0)]
    assert table.top.name == "gemm"
    assert (table.share("matmul"), table.share("other")) == (1.0, 0.0)


def test_the_longest_call_of_a_sum_is_unknown_where_one_is():
    rows = make_table([("a", "matmul", 1, 2.0, 2.0, "cpu"), ("b", "matmul", 1, 1.0, None, "cpu")])
    assert [row.max_ms for row in rows.by_kind()] == [None]


def test_an_op_that_is_not_there_is_a_key_error(profile):
    with pytest.raises(KeyError, match="no such op"):
        profile.table()["no such op"]
