"""The op table: one line for each op of each device, whichever profiler the times come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labsupport.base import tables
from labsupport.results import rows as results

PHASE = "phase"  # the kind of an event that is a named part of the work
SHOWN = 15  # rows of a table on a page; the rest goes into one line


@dataclass(frozen=True)
class Event:
    """One call of an op, or (kind "phase") one named part of the work. Times in milliseconds.

    start_ms: since the first event of the trace; ms: from begin to end; self_ms: without the ops that it calls.
    lane: the process and thread, or the stream, on which it ran; phase: the innermost phase that it began in, or "".
    """

    name: str
    kind: str
    start_ms: float
    ms: float
    self_ms: float
    device: str
    lane: str = ""
    phase: str = ""

    @property
    def end_ms(self) -> float:
        return self.start_ms + self.ms

    @property
    def computes(self) -> bool:
        """Whether it spends at least half of its time itself, not in ops that it calls."""
        return 2 * self.self_ms >= self.ms


@dataclass(frozen=True)
class Row:
    """All calls of one op on one device, without the ops that it calls. Times in milliseconds.

    share: part of the time of all ops on this device, 0 to 1; max_ms: None where the profiler does not give it.
    """

    name: str
    kind: str
    calls: int
    total_ms: float
    mean_ms: float
    max_ms: float | None
    share: float
    device: str


@dataclass(frozen=True, repr=False)
class Table:
    """The rows, an accelerator's before the host's, the longest total first. Each device's shares add up to 1."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The first row with this name; KeyError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def top(self) -> Row:
        """The op that takes the most time, on the accelerator if there is one."""
        return self.rows[0]

    def share(self, kind: str) -> float:
        """The part of the time, 0 to 1, that ops of this kind take: on the accelerator if there is one."""
        return sum(row.share for row in self.rows if row.kind == kind and row.device == self.top.device)

    def by_kind(self) -> Table:
        """One row for each kind of op."""
        groups = defaultdict(list)
        for row in self.rows:
            groups[row.kind, row.device].append(row)
        return Table(sort_rows(merge_rows(rows, kind, kind) for (kind, _), rows in groups.items()))

    def record(self, topic: str, **details) -> list[results.Row]:
        """Writes a row for each op (total milliseconds), which the report shows as a table: see `rows.record_ops`."""
        ops = ((row.name, row.total_ms, f"calls: {row.calls}, on {row.device}") for row in self.rows)
        return results.record_ops(topic, ops, "ms", **details)

    def cells(self) -> list[list[str]]:
        """The heading and one line of texts a row; the rows past the first `SHOWN` in one line; no empty column."""
        shown, rest = list(self.rows[:SHOWN]), self.rows[SHOWN:]
        for device in dict.fromkeys(row.device for row in rest):
            same = [row for row in rest if row.device == device]
            shown.append(merge_rows(same, f"{len(same)} more", ""))
        columns = {
            "name": [row.name for row in shown],
            "kind": [row.kind if row.kind not in (row.name, PHASE) else "" for row in shown],
            "calls": [str(row.calls) for row in shown],
            "total ms": [f"{row.total_ms:.1f}" for row in shown],
            "mean ms": [f"{row.mean_ms:.3g}" for row in shown],
            "max ms": ["" if row.max_ms is None else f"{row.max_ms:.3g}" for row in shown],
            "share": [f"{100 * row.share:.1f} %" for row in shown],
            "device": [row.device for row in shown],
        }
        return tables.drop_empty_columns(columns)

    def _repr_markdown_(self) -> str:
        heading, *lines = self.cells()
        code = [[f"`{name}`", *cells] for name, *cells in lines]  # an op's underscores are no emphasis
        return tables.markdown_table([heading, *code], left=1 + ("kind" in heading))

    def __repr__(self) -> str:
        cells = self.cells()
        return tables.text_table(cells, left=1 + ("kind" in cells[0]))


def op_table(events: Iterable[Event]) -> Table:
    """One row for each name and device, from each call's self time."""
    groups = defaultdict(list)
    for event in events:
        groups[event.name, event.device].append(event)
    return make_table(
        (name, calls[0].kind, len(calls), sum(c.self_ms for c in calls), max(c.self_ms for c in calls), device)
        for (name, device), calls in groups.items()
    )


def make_table(ops: Iterable[tuple[str, str, int, float, float | None, str]]) -> Table:
    """(name, kind, calls, total ms, max ms, device) of each op -> the table."""
    ops = list(ops)
    whole: dict[str, float] = defaultdict(float)
    for *_, total, _, device in ops:
        whole[device] += total
    rows = [
        Row(name, kind, calls, total, total / calls, most, total / whole[device] if whole[device] else 0.0, device)
        for name, kind, calls, total, most, device in ops
    ]
    return Table(sort_rows(rows))


def sort_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """An accelerator's rows before the host's, then by total."""
    return tuple(sorted(rows, key=lambda row: (row.device == "cpu", row.device, -row.total_ms)))


def merge_rows(rows: list[Row], name: str, kind: str) -> Row:
    """The rows of one device as one."""
    calls, total = sum(row.calls for row in rows), sum(row.total_ms for row in rows)
    longest = [row.max_ms for row in rows if row.max_ms is not None]
    most = max(longest) if len(longest) == len(rows) else None
    return Row(name, kind, calls, total, total / calls, most, sum(row.share for row in rows), rows[0].device)
