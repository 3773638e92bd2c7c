"""Reads the tables that the Ascend and MindSpore profilers write as CSV.

Columns: "op_statistic" and "op_summary" in the CANN profiling guide, and `kernel_details.csv` in the MindSpore and
Ascend PyTorch profiler guides. They depend on the product, the version and the level of profiling, so every column is
found by its name, and only those that a table needs must be there.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from labsupport.base.errors import TraceError
from labsupport.profiling.kinds import op_kind
from labsupport.profiling.table import Event, Table, make_table
from labsupport.profiling.trace import read_text, read_trace

OUTPUT = "ASCEND_PROFILER_OUTPUT"
UNKNOWN = {"", "N/A", "-"}

T = TypeVar("T")


def read_op_statistic(path: Path) -> Table:
    """`op_statistic.csv`: each op type's calls and time on the NPU's cores; TraceError where `read_rows` raises it."""
    return make_table(read_rows(path, ("OP Type", "Core Type", "Count", "Total Time(us)"), to_totals))


def to_totals(line: dict[str, str]) -> tuple[str, str, int, float, float | None, str]:
    """A row of `op_statistic.csv` as `make_table` takes it."""
    longest = float(line["Max Time(us)"]) / 1e3 if "Max Time(us)" in line else None
    calls, total = int(line["Count"]), float(line["Total Time(us)"]) / 1e3
    return line["OP Type"], op_kind(line["OP Type"]), calls, total, longest, core_device(line["Core Type"])


def read_kernel_details(path: Path) -> list[Event]:
    """`kernel_details.csv`: every kernel that ran on the NPU, in the order of their start.

    Where a level or a single op gives no Type, the kernel's name stands for it.
    """
    events = read_rows(path, ("Name", "Type", "Accelerator Core", "Start Time(us)", "Duration(us)"), to_kernel)
    first = min(event.start_ms for event in events)
    return sorted((replace(e, start_ms=e.start_ms - first) for e in events), key=lambda event: event.start_ms)


def to_kernel(line: dict[str, str]) -> Event:
    name = line["Name"] if line["Type"] in UNKNOWN else line["Type"]
    start, milliseconds = float(line["Start Time(us)"]) / 1e3, float(line["Duration(us)"]) / 1e3
    device, stream = core_device(line["Accelerator Core"]), line.get("Stream ID", "0")
    return Event(name, op_kind(name), start, milliseconds, milliseconds, device, stream)


def core_device(core: str) -> str:
    """AI_CORE, AI_VECTOR_CORE and mixed kernels compute on the "npu"; AI_CPU is a processor of its own beside them."""
    return "npu ai_cpu" if core.upper().replace(" ", "_") in ("AI_CPU", "AICPU") else "npu"


def read_output(folder: Path) -> list[Event]:
    """The ops of a folder `*_ascend_ms` (MindSpore) or `*_ascend_pt` (PyTorch): the NPU's kernels if it lists them,
    else its timeline. Raises TraceError for another folder.
    """
    output = Path(folder) / OUTPUT
    if (output / "kernel_details.csv").exists():
        return read_kernel_details(output / "kernel_details.csv")
    if not output.is_dir():
        raise TraceError(f"This folder holds no {OUTPUT}.", where=folder, hint="Give the folder *_ascend_ms itself.")
    return read_trace(output / "trace_view.json")[0]


def read_rows(path: Path, needed: tuple[str, ...], convert: Callable[[dict[str, str]], T]) -> list[T]:
    """Each line of a CSV, as a dictionary by column, through `convert`.

    Raises:
        TraceError: the file is missing, empty, damaged, or lacks a column.
    """
    text = read_text(Path(path), "table", encoding="utf-8-sig")
    if not text.endswith("\n"):  # every profiler ends its last line; a number cut in two would still be a number
        raise TraceError("This table breaks off in its last line.", where=path, hint="Copy the file anew.")
    lines = list(csv.reader(text.splitlines()))
    heading = [name.strip() for name in lines[0]]
    if lacking := [name for name in needed if name not in heading]:
        hint = f"Its columns are {', '.join(heading[:12])}."
        raise TraceError(f"This table has no column {lacking[0]!r}.", where=path, hint=hint)
    if len(lines) == 1:
        raise TraceError("This table has a heading and no rows.", where=path, hint="Was the profiler on long enough?")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(convert(dict(zip(heading, map(str.strip, line), strict=True))))
        except ValueError as error:
            hint = "Profile again, or copy the file anew."
            raise TraceError(f"Line {number} is damaged: {error}.", where=path, hint=hint) from error
    return rows
