"""Profiles, graphs and groups, read from files that the compiler wrote."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from labsupport.base.errors import SophonError
from labsupport.sophon.readers import ESTIMATE, count_ops, read_grouping, read_profile

SAMPLES = Path(__file__).parents[1] / "data" / "sophon"
NAMES = ("default", "without_affine")


def sample(name: str, kind: str) -> Path:
    return SAMPLES / f"{name}.{kind}"


@pytest.mark.parametrize("name", NAMES)
def test_the_profile_agrees_with_the_tools_own_summary(name):
    text = sample(name, "profile.txt").read_text()
    profile = read_profile(sample(name, "profile.txt"))
    assert f"S2L:{profile.moved('in')}|dr[1] L2S:{profile.moved('out')}|dr[2] S2S:{profile.moved('copy')}" in text
    assert profile.cycles == max(c.start + c.cycles for c in profile.commands)
    assert max(profile.busy("TIU"), profile.busy("GDMA")) <= profile.cycles
    assert text.count("|s:") == len(profile.commands)


@pytest.mark.parametrize("engine", ["TIU", "GDMA"])
def test_an_engine_does_one_thing_at_a_time(engine):
    commands = [c for c in read_profile(sample("default", "profile.txt")).commands if c.engine == engine]
    commands.sort(key=lambda command: command.start)
    assert all(a.start + a.cycles <= b.start for a, b in itertools.pairwise(commands))


def test_the_table_counts_every_cycle_and_byte_once_and_is_labelled_as_an_estimate():
    profile = read_profile(sample("default", "profile.txt"))
    table = profile.table()
    assert sum(row.cycles for row in table) == profile.busy("TIU") + profile.busy("GDMA")
    assert sum(row.bytes for row in table) == profile.moved()
    assert sum(row.commands for row in table) == len(profile.commands)
    assert ESTIMATE in table._repr_markdown_()
    assert ESTIMATE in repr(table)


def test_the_table_is_recorded_op_by_op_and_engine_by_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    table = read_profile(sample("default", "profile.txt")).table()
    written = table.record("a step")
    assert [(row.value, row.unit) for row in written] == [(one.cycles, "cycles") for one in table]
    assert written[0].what == f"ops of a step: {table.rows[0].op}, {table.rows[0].engine}"
    assert all(ESTIMATE in row.note for row in written)


def test_slices_copy_in_dram_until_the_affine_pass_makes_them_offsets_of_a_load():
    """The same graph, compiled with and without one pass."""
    merged, apart = [read_profile(sample(name, "profile.txt")) for name in NAMES]
    assert merged.moved("copy") == 0
    assert apart.moved("copy") == 2 * 5 * 447 * 8 * 64 * 2  # both caches, all rows but the oldest, in F16
    assert merged.table().cycles_of("Slice") == 0 < apart.table().cycles_of("Slice")
    assert "Slice" not in count_ops(sample("default", "final.mlir"))
    assert count_ops(sample("without_affine", "final.mlir"))["Slice"] == 2


def test_an_op_of_the_profile_stands_at_its_line_of_the_final_graph():
    profile = read_profile(sample("default", "profile.txt"))
    lines = sample("default", "final.mlir").read_text().splitlines()
    assert all(f'"tpu.{command.op}"(' in lines[command.line - 1] for command in profile.commands)


def test_groups_and_what_stands_alone():
    merged, apart = [read_grouping(sample(name, "final.mlir")) for name in NAMES]
    assert len(merged.groups) == 1
    assert Counter(merged.alone) == {"MatMul": 1}
    assert Counter(apart.alone) == {"MatMul": 1, "Slice": 2}
    assert merged.share_grouped == pytest.approx(10 / 11)
    assert merged.groups[0].count("MatMul") == 5


@pytest.mark.parametrize("part", [0.0, 0.3, 0.98])
def test_a_truncated_profile_is_no_profile(tmp_path, part):
    text = sample("default", "profile.txt").read_text()
    path = tmp_path / "compiler_profile_0.txt"
    path.write_text(text[: int(len(text) * part)])
    with pytest.raises(SophonError, match="not one whole program"):
        read_profile(path)


def test_a_truncated_or_missing_graph_is_damage(tmp_path):
    path = tmp_path / "final.mlir"
    with pytest.raises(SophonError, match="cannot be read"):
        count_ops(path)
    text = sample("default", "final.mlir").read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(SophonError, match="ends before"):
        count_ops(path)


def test_stored_samples_are_small_and_name_no_machine():
    files = list(SAMPLES.iterdir())
    assert sum(path.stat().st_size for path in files) < 100_000
    assert not [path for path in files if "/root" in path.read_text() or "/tmp" in path.read_text()]
