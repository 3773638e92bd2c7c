"""The readers of Ascend's profiler files, on files that it wrote, whole and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from labsupport import profiling
from labsupport.base.errors import TraceError

ASCEND = next((Path(__file__).parents[1] / "data" / "ascend").glob("*_ascend_ms"))
OUTPUT = ASCEND / "ASCEND_PROFILER_OUTPUT"
READERS = {
    "op_statistic.csv": profiling.read_op_statistic,
    "kernel_details.csv": profiling.read_kernel_details,
    "trace_view.json": profiling.read_trace,
}


def test_op_statistic_gives_each_op_types_calls_and_time():
    table = profiling.read_op_statistic(OUTPUT / "op_statistic.csv")
    conv = table["Conv2D"]
    assert (conv.kind, conv.calls, conv.device) == ("convolution", 1, "npu")
    assert (conv.total_ms, conv.max_ms) == (pytest.approx(0.820125), pytest.approx(0.820125))
    assert table["TransData"].calls == 2
    assert table["TransData"].total_ms == pytest.approx(0.36)
    assert table["Cast"].device == "npu ai_cpu"


def test_kernel_details_and_the_timeline_agree_with_op_statistic():
    expected = profiling.read_op_statistic(OUTPUT / "op_statistic.csv")
    kernels = profiling.read_kernel_details(OUTPUT / "kernel_details.csv")
    table = profiling.op_table(kernels)
    assert {row.name for row in table} == {row.name for row in expected}
    for row in expected:
        assert table[row.name].calls == row.calls
        assert table[row.name].total_ms == pytest.approx(row.total_ms)
        assert table[row.name].share == pytest.approx(row.share)
    timeline, phases = profiling.read_trace(OUTPUT / "trace_view.json")
    assert phases == []
    assert [event.ms for event in timeline] == pytest.approx([kernel.ms for kernel in kernels])
    assert [event.start_ms for event in timeline] == pytest.approx([kernel.start_ms for kernel in kernels], abs=1e-3)


def test_a_folder_without_kernel_details_is_read_from_its_timeline(tmp_path):
    folder = tmp_path / "vm_1_ascend_ms"
    shutil.copytree(ASCEND, folder)
    kernels = profiling.read_output(folder)
    assert kernels[0].name == "TransData"
    (folder / "ASCEND_PROFILER_OUTPUT" / "kernel_details.csv").unlink()
    assert len(profiling.read_output(folder)) == len(kernels)


def test_level_0_without_types_falls_back_to_the_kernels_name(tmp_path):
    lines = (OUTPUT / "kernel_details.csv").read_text().replace(",Gelu,", ",N/A,")
    (tmp_path / "kernel_details.csv").write_text(lines)
    names = [kernel.name for kernel in profiling.read_kernel_details(tmp_path / "kernel_details.csv")]
    assert "Default/Gelu-op1" in names


def test_columns_are_found_by_name_in_any_order_and_others_may_be_missing(tmp_path):
    text = "Type,Name,Duration(us),Start Time(us),Accelerator Core\nGelu,g,2.5,10.0\t,AI_VECTOR_CORE\n"
    (tmp_path / "kernel_details.csv").write_text(text)
    (kernel,) = profiling.read_kernel_details(tmp_path / "kernel_details.csv")
    assert (kernel.name, kernel.ms, kernel.start_ms) == ("Gelu", 0.0025, 0.0)


@pytest.mark.parametrize("name", READERS)
def test_missing_empty_and_foreign_files_are_refused(name, tmp_path):
    path, read, thing = tmp_path / name, READERS[name], "trace" if name.endswith("json") else "table"
    for folder_or_nothing in (path, tmp_path):
        with pytest.raises(TraceError, match=f"no such {thing}"):
            read(folder_or_nothing)
    for content, what in [
        (b" \n", f"This {thing} is empty"),
        (b'{"name": "no trace",\n "cells": 3}\n', "no column|no list of events"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", f"no text, so no {thing}"),
    ]:
        path.write_bytes(content)
        with pytest.raises(TraceError, match=what):
            read(path)


@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_anywhere_but_after_a_line_of_a_table_is_refused(name, tmp_path_factory):
    whole = (OUTPUT / name).read_bytes()
    path = tmp_path_factory.mktemp("cut") / name
    for cut in range(len(whole.rstrip())):
        path.write_bytes(whole[:cut])
        if name.endswith(".csv") and whole[:cut].count(b"\n") > 1 and whole[:cut].endswith(b"\n"):
            continue  # a shorter table, which looks like a whole one
        with pytest.raises(TraceError):
            READERS[name](path)


@pytest.mark.parametrize(
    ("name", "whole", "damaged"),
    [
        ("op_statistic.csv", ",1,820.125,", ",one,820.125,"),
        ("kernel_details.csv", ",820.125,", ",8O20.125,"),
        ("trace_view.json", '"dur": 820.125', '"dur": "long"'),
        ("trace_view.json", '"dur": 820.125, ', ""),
    ],
)
def test_a_damaged_number_is_named_with_its_file(name, whole, damaged, tmp_path):
    text = (OUTPUT / name).read_text()
    assert whole in text
    (tmp_path / name).write_text(text.replace(whole, damaged))
    with pytest.raises(TraceError) as error:
        READERS[name](tmp_path / name)
    assert error.value.where == tmp_path / name
    assert error.value.hint or "number" in error.value.what


def test_a_heading_alone_is_an_empty_table(tmp_path):
    (tmp_path / "op_statistic.csv").write_text("OP Type,Core Type,Count,Total Time(us)\n")
    with pytest.raises(TraceError, match="no rows"):
        profiling.read_op_statistic(tmp_path / "op_statistic.csv")


def test_a_trace_of_something_else_holds_no_op(tmp_path):
    browser = [{"ph": "X", "name": "Paint", "cat": "blink", "pid": 1, "tid": 1, "ts": 1, "dur": 2}]
    (tmp_path / "trace.json").write_text(json.dumps(browser))
    with pytest.raises(TraceError, match="no op of torch"):
        profiling.read_trace(tmp_path / "trace.json")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(TraceError, match="holds no ASCEND"):
        profiling.read_output(tmp_path)
