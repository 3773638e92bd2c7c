"""The compiler's files as tables: the ops of a graph at each stage, its groups, and every command of the program.

All cycles are the compiler's estimate. No chip has run anything.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labsupport.base import tables
from labsupport.base.errors import SophonError
from labsupport.results.rows import Row, record_ops
from labsupport.sophon.compiler import STAGES, Compiled

ESTIMATE = "compiler's estimate, tpu_mlir 1.30.2"
CYCLES_PER_MS = 1_000_000  # the file's own "runtime" counts 1 GHz
DIRECTIONS = {"0": "in", "1": "out", "2": "copy", "3": "on chip"}  # S2L, L2S, S2S, L2L; S: DRAM, L: the TIU's
NOT_OPS = {"Input", "Weight", "None", "Yield", "Buffer"}
SHOWN_ROWS = 14
MAKE_AGAIN = "Delete its folder, and compile the graph again."

COMMAND = re.compile(
    r"(?P<op>\w+)_(?P<line>\d+)\|(?P<instruction>\w+)\|s:(?P<start>\d+)\|b:\d+\|g:\d+\|e:(?P<end>\d+)\|t:(?P<cycles>\d+)"
    r"(?:\|dr:(?P<direction>\d)\|sz:(?P<bytes>\d+)\|bw:(?P<bandwidth>[\d.]+))?"
)
OP = re.compile(r'"(?:top|tpu)\.(\w+)"\(')


@dataclass(frozen=True)
class Command:
    """One command of the program. Times in cycles of 1 GHz.

    op, line: the op that it belongs to, and that op's line in the final graph; engine: "TIU" computes, "GDMA" moves;
    direction, bytes: of a transfer, "in" from the DRAM, "out" to it, "copy" from DRAM to DRAM, or "on chip".
    """

    op: str
    line: int
    engine: str
    instruction: str
    start: int
    cycles: int
    direction: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Profile:
    """All commands in order, and the cycles from the first one's start to the last one's end."""

    commands: tuple[Command, ...]
    cycles: int

    @property
    def ms(self) -> float:
        return self.cycles / CYCLES_PER_MS

    def busy(self, engine: str) -> int:
        """Cycles in which this engine works."""
        return sum(command.cycles for command in self.commands if command.engine == engine)

    def moved(self, direction: str | None = None) -> int:
        """Bytes moved, in one direction or in all."""
        return sum(c.bytes for c in self.commands if direction in (None, c.direction))

    def table(self) -> CycleTable:
        """One row for each op and engine."""
        groups = defaultdict(list)
        for command in self.commands:
            groups[command.op, command.engine].append(command)
        totals = [
            OpCycles(op, engine, len(commands), sum(c.cycles for c in commands), sum(c.bytes for c in commands))
            for (op, engine), commands in groups.items()
        ]
        return CycleTable(tuple(sorted(totals, key=lambda row: (-row.cycles, row.op, row.engine))), self.cycles)


@dataclass(frozen=True)
class OpCycles:
    """All commands of one op on one engine; busy cycles, and the bytes moved."""

    op: str
    engine: str
    commands: int
    cycles: int
    bytes: int

    @property
    def bytes_per_cycle(self) -> float | None:
        """None for the engine that moves nothing."""
        return self.bytes / self.cycles if self.bytes else None


@dataclass(frozen=True, repr=False)
class CycleTable:
    """Rows by cycles, the most first. Engines work at the same time, so the rows' sum is more than `cycles`."""

    rows: tuple[OpCycles, ...]
    cycles: int

    def __iter__(self) -> Iterator[OpCycles]:
        return iter(self.rows)

    def cycles_of(self, op: str) -> int:
        """Busy cycles of an op on both engines."""
        return sum(row.cycles for row in self.rows if row.op == op)

    def record(self, topic: str, **details) -> list[Row]:
        """Writes a row for each op and engine (cycles), which the report shows as a table; see `rows.record_ops`."""
        ops = (
            (f"{row.op}, {row.engine}", row.cycles, f"{row.commands} commands, {row.bytes:,} bytes; {ESTIMATE}")
            for row in self.rows
        )
        return record_ops(topic, ops, "cycles", **details)

    def lines(self) -> list[list[str]]:
        """The heading, which holds the label, and a line for each row."""
        heading = ["op", "engine", "commands", f"cycles ({ESTIMATE})", "of all", "MB", "bytes/cycle"]
        lines = [heading, *map(self.line, self.rows[:SHOWN_ROWS])]
        if rest := self.rows[SHOWN_ROWS:]:
            lines.append([f"{len(rest)} more", "", "", f"{sum(row.cycles for row in rest):,}", "", "", ""])
        return lines

    def line(self, row: OpCycles) -> list[str]:
        share = f"{100 * row.cycles / self.cycles:.1f} %"
        moved = [f"{row.bytes / 1e6:.2f}", f"{row.bytes_per_cycle:.1f}"] if row.bytes else ["", ""]
        return [row.op, row.engine, str(row.commands), f"{row.cycles:,}", share, *moved]

    def _repr_markdown_(self) -> str:
        return tables.markdown_table(self.lines(), left=2)

    def __repr__(self) -> str:
        return tables.text_table(self.lines(), left=2)


def read_profile(path: Path) -> Profile:
    """The compiler's profile of one program.

    Raises:
        SophonError: there is no such file, it ends before its total, holds several programs, or no commands.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SophonError("The compiler's profile cannot be read.", where=path) from error
    totals = re.findall(r"^TCYC : (\d+)$", text, re.M)
    commands = tuple(as_command(found) for found in COMMAND.finditer(text))
    if len(totals) != 1 or not commands:
        raise SophonError("The profile is not one whole program's.", where=path, hint=MAKE_AGAIN)
    return Profile(commands, int(totals[0]))


def as_command(found: re.Match) -> Command:
    moves = found["direction"] is not None
    return Command(
        op=found["op"],
        line=int(found["line"]),
        engine="GDMA" if moves else "TIU",
        instruction=found["instruction"],
        start=int(found["start"]),
        cycles=int(found["cycles"]),
        direction=DIRECTIONS[found["direction"]] if moves else "",
        bytes=int(found["bytes"]) if moves else 0,
    )


# --- the graph at each stage --------------------------------------------------------------------------------


def read_graph(path: Path) -> list[str]:
    """The lines of one stage's graph.

    Raises:
        SophonError: there is no such file, or it ends before the module does.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SophonError("The graph cannot be read.", where=path) from error
    if not any(line.startswith("} loc(") for line in lines):
        raise SophonError("The graph ends before its module does.", where=path, hint=MAKE_AGAIN)
    return lines


def count_ops(path: Path) -> Counter:
    """How often each op stands in a stage's graph; inputs and weights are not counted."""
    return Counter(op for line in read_graph(path) for op in OP.findall(line) if op not in NOT_OPS)


def count_stages(compiled: Compiled) -> dict[str, Counter]:
    """`count_ops` at every stage of lowering, from the ONNX graph as it was read to the final one."""
    return {name: count_ops(compiled.stage(name)) for name in STAGES}


@dataclass(frozen=True)
class Grouping:
    """How the final graph is cut: each group's ops stay on the chip from the first to the last; every other op loads
    its inputs from DRAM and stores its outputs there.
    """

    groups: tuple[tuple[str, ...], ...]
    alone: tuple[str, ...]

    @property
    def share_grouped(self) -> float:
        """The part of the ops, 0 to 1, that stand in groups."""
        inside = sum(map(len, self.groups))
        return inside / (inside + len(self.alone))


def read_grouping(path: Path) -> Grouping:
    """The groups of a final graph, without the loads and stores at their edges, and without reshapes."""
    groups: list[list[str]] = []
    alone: list[str] = []
    inside = False
    for line in read_graph(path):
        found = OP.search(line)
        if found and found[1] == "Group":
            groups.append([])
            inside = True
        elif line.lstrip().startswith("})"):
            inside = False
        elif found and found[1] not in NOT_OPS | {"Load", "Store", "Reshape"}:
            (groups[-1] if inside else alone).append(found[1])
    return Grouping(tuple(map(tuple, groups)), tuple(alone))
