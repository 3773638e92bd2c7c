"""The op table against torch's own sums; the recorder writes nothing on the terminal."""

from __future__ import annotations

import pytest
import torch
from small_work import multiply_and_activate

from labsupport import profiling


def test_self_times_are_torchs_own(tmp_path):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
        multiply_and_activate()
    theirs.export_chrome_trace(str(tmp_path / "trace.json"))
    table = profiling.op_table(profiling.read_trace(tmp_path / "trace.json")[0])
    expected = {op.key: (op.count, op.self_cpu_time_total / 1e3) for op in theirs.key_averages()}
    assert {row.name: row.calls for row in table} == {name: count for name, (count, _) in expected.items()}
    for row in table:
        assert row.total_ms == pytest.approx(expected[row.name][1], rel=0.01, abs=0.002)


def test_a_slow_op_among_many_small_ones_is_on_top(tmp_path):
    def work():
        for _ in range(50):
            torch.relu(torch.ones(10))
        torch.arange(2_000_000, 0, -1).sort()

    table = profiling.profile(work, tmp_path).table()
    assert table.top.name == "aten::sort"
    assert table["aten::relu"].calls == 50


def test_an_error_in_the_work_stops_the_profiler(tmp_path):
    with pytest.raises(ZeroDivisionError):
        profiling.profile(lambda: 1 / 0, tmp_path, warmup=0)
    assert profiling.profile(multiply_and_activate, tmp_path).events


def test_profiling_writes_nothing_on_the_terminal(tmp_path, capfd):
    profiling.profile(multiply_and_activate, tmp_path)
    assert capfd.readouterr() == ("", "")
