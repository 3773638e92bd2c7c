"""The results of a corpus: parts that are whole, rows that are there once, and what is left to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import FolderError, ScalingError
from labsupport.scaling import parts
from labsupport.scaling.manifest import Item
from labsupport.scaling.parts import describe_file, make_plan, open_store, read_store

WORD = {"start": 0.0, "end": 0.5, "word": " Hi", "probability": 0.9}
SEGMENT = {"id": 0, "start": 0.0, "end": 1.5, "text": "Hi.", "words": [WORD], "temperature": 0.0}


def make_row(path, **fields):
    blank = dict.fromkeys(parts.schema().names) | {"notes": [], "options": "o"}
    return blank | {"path": path, "text": "Hi.", "segments": [SEGMENT]} | fields


def make_sound(folder, name, content=b"abc"):
    file = folder / name
    file.write_bytes(content)
    described = describe_file(str(file)) | {"sha256": parts.hash_file(file)}
    return Item(name, str(file)), make_row(name, **described)


def paths_of(folder):
    return sorted(pd.read_parquet(folder)["path"])


# --- writing ----------------------------------------------------------------------------------------------------------


def test_parts_are_one_table_for_any_reader_of_parquet(tmp_path):
    with open_store(tmp_path / "out") as store:
        store.write([make_row("a.wav"), make_row("b.wav", text=None, segments=None, error="bad")])
        store.write([make_row("c.wav", wer=0.25, notes=["n"])])
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == parts.schema().names
    assert table["path"].to_pylist() == ["a.wav", "b.wav", "c.wav"]
    assert table["segments"].to_pylist()[0] == [SEGMENT | dict.fromkeys(
        ("avg_logprob", "compression_ratio", "no_speech_prob"))]  # fmt: skip
    assert table["wer"].to_pylist() == [None, None, 0.25]


def test_what_no_file_can_hold_is_escaped(tmp_path):
    with open_store(tmp_path) as store:
        store.write([make_row("a\udcff.wav", notes=["\ud800"])])
    assert pq.read_table(tmp_path).to_pylist()[0]["path"] == "a\\udcff.wav"


def test_a_part_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(table, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with open_store(tmp_path) as store:
        monkeypatch.setattr("pyarrow.parquet.write_table", fail)
        with pytest.raises(FolderError, match="No space"):
            store.write([make_row("a.wav")])
        assert (store.number, os.listdir(tmp_path)) == (0, [".lock"])


def test_two_processes_do_not_write_to_one_output(tmp_path):
    code = (
        "import sys; from pathlib import Path; from labsupport.scaling.parts import open_store\n"
        "with open_store(Path(sys.argv[1])): pass"
    )
    with open_store(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "Another process writes to this output" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".part-00003.parquet.999.part").write_bytes(b"half")
    with open_store(tmp_path) as store:
        store.write([make_row("a.wav")])
    assert sorted(os.listdir(tmp_path)) == [".lock", "part-00001.parquet"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FolderError), open_store(tmp_path / "out"):
        pass


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FolderError), open_store(tmp_path / "out"):
        pass


# --- reading ----------------------------------------------------------------------------------------------------------


def test_numbers_go_on_after_the_newest_part(tmp_path):
    with open_store(tmp_path) as store:
        store.number = 99_999  # a sixth digit must not sort before five
        store.write([make_row("a.wav", text="old")])
    with open_store(tmp_path) as store:
        assert store.write([make_row("b.wav")]).name == "part-100001.parquet"
    assert read_store(tmp_path).number == 100_001


@pytest.mark.parametrize("content", [b"", b"PAR1", "other columns"])
def test_a_damaged_part_is_named(tmp_path, content):
    part = tmp_path / "part-00001.parquet"
    if isinstance(content, bytes):
        part.write_bytes(content)
    else:
        pd.DataFrame({"path": ["a"]}).to_parquet(part)
    with pytest.raises(ScalingError, match="part is damaged") as error, open_store(tmp_path):
        pass
    assert str(part) in str(error.value)


@given(data=st.data())
def test_dropping_takes_the_rows_asked_for_and_no_other(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [[f"{part}-{row}.wav" for row in range(size)] for part, size in enumerate(sizes)]
    everything = [name for part in names for name in part]
    with open_store(folder) as store:
        for part in names:
            store.write([make_row(name) for name in part])
    gone = set(data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True)))
    with open_store(folder) as store:
        assert {row["path"] for row in store.rows(gone)} == gone
        store.drop(gone)
    left = sorted(set(everything) - gone)
    assert sorted(read_store(folder).states) == left
    assert not left or paths_of(folder) == left


# --- what is left to do -----------------------------------------------------------------------------------------------


@pytest.fixture
def done(tmp_path):
    """A file, and the store that holds its row."""
    item, row = make_sound(tmp_path, "a.wav")
    with open_store(tmp_path / "out") as store:
        store.write([row])
    return item, row, tmp_path / "out"


def test_a_file_with_a_row_is_done_and_another_waits(done, tmp_path):
    item, _, out = done
    other = Item("b.wav", str(tmp_path / "b.wav"))
    plan = make_plan([item, other], read_store(out), "o")
    assert (plan.done, plan.waiting, plan.stale, plan.others) == ({"a.wav"}, [other], set(), set())


def test_a_file_of_another_time_and_the_same_content_is_done(done):
    item, _, out = done
    os.utime(item.file, ns=(1, 1))
    assert make_plan([item], read_store(out), "o").done == {"a.wav"}


@pytest.mark.parametrize("content", [b"abd", b"abcd"], ids=["same size", "other size"])
def test_a_file_that_has_changed_is_done_again(done, content):
    item, _, out = done
    with open(item.file, "wb") as file:
        file.write(content)
    os.utime(item.file, ns=(1, 1))
    plan = make_plan([item], read_store(out), "o")
    assert (plan.stale, plan.waiting, plan.done) == ({"a.wav"}, [item], set())


def test_a_file_that_is_gone_is_tried_again(done):
    item, _, out = done
    os.unlink(item.file)
    assert make_plan([item], read_store(out), "o").waiting == [item]


def test_a_file_that_could_not_be_read_or_changed_meanwhile_is_tried_again(tmp_path):
    item, row = make_sound(tmp_path, "a.wav")
    with open_store(tmp_path / "out") as store:
        store.write([row | {"sha256": None, "error": "This user may not read it.", "error_kind": "AudioError"}])
    assert make_plan([item], read_store(tmp_path / "out"), "o").waiting == [item]


def test_other_options_and_another_reference_are_told_apart(done):
    item, _, out = done
    assert make_plan([item], read_store(out), "p").others == {"a.wav"}
    other = Item(item.path, item.file, "Hi.")
    assert make_plan([other], read_store(out), "o").judged_anew == [other]


@pytest.mark.parametrize(
    ("kind", "again"), [("AudioError", False), ("NoAudio", False), ("WorkerDied", True), ("FolderError", True)]
)
def test_what_fails_again_is_not_tried_again(tmp_path, kind, again):
    item, row = make_sound(tmp_path, "a.wav")
    with open_store(tmp_path / "out") as store:
        store.write([row | {"error": "e", "error_kind": kind}])
    assert bool(make_plan([item], read_store(tmp_path / "out"), "o").waiting) == again
