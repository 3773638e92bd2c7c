"""What a corpus consists of: folders and tables, good ones and odd ones."""

from __future__ import annotations

import csv
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import ScalingError
from labsupport.scaling.manifest import Item, find_corpus

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(str.strip)
ROWS = [{"path": "a.wav", "reference": "One, two."}, {"path": "b/ü ☃.flac", "reference": None}]


def write_table(path, rows):
    """A table of these rows; its form by its ending."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".CSV"])
def test_a_table_names_files_beside_itself_and_what_is_said_in_them(tmp_path, ending):
    table = write_table(tmp_path / f"m{ending.lower()}", ROWS).rename(tmp_path / f"table{ending}")
    expected = [
        Item("a.wav", str(tmp_path / "a.wav"), "One, two."), Item("b/ü ☃.flac", str(tmp_path / "b" / "ü ☃.flac")),
    ]  # fmt: skip
    assert find_corpus(table).items == expected


@given(names=st.lists(TEXTS, min_size=1, max_size=6, unique=True), texts=st.lists(TEXTS, min_size=6, max_size=6))
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_row_of_a_table_is_an_item_in_its_order(tmp_path_factory, ending, names, texts):
    rows = [{"path": name, "text": text} for name, text in zip(names, texts)]  # noqa: B905
    found = find_corpus(write_table(tmp_path_factory.mktemp("tables") / f"m{ending}", rows))
    assert [(item.path, item.reference) for item in found.items] == [(r["path"], r["text"]) for r in rows]


def test_a_column_reference_comes_before_one_called_text(tmp_path):
    table = write_table(tmp_path / "m.csv", [{"path": "a.wav", "text": "wrong", "reference": "right"}])
    assert find_corpus(table).items[0].reference == "right"


def test_a_file_that_is_named_twice_is_transcribed_once(tmp_path):
    corpus = find_corpus(write_table(tmp_path / "m.jsonl", [{"path": "a.wav"}, {"path": "b.wav"}, {"path": "a.wav"}]))
    assert [item.path for item in corpus.items] == ["a.wav", "b.wav"]
    assert corpus.notes == ["Rows that name a file once more: 1."]


def test_a_folder_is_searched_to_any_depth_for_what_may_hold_sound(tmp_path):
    for name in ("b.wav", "a/z.MP3", "a/deep/x.odd", "no_ending", "a.txt", "a/B.JSON", ".hidden.wav", ".git/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    corpus = find_corpus(tmp_path)
    assert [item.path for item in corpus.items] == ["b.wav", "no_ending", "a/z.MP3", "a/deep/x.odd"]
    assert all(os.path.isabs(item.file) and os.path.exists(item.file) for item in corpus.items)
    assert corpus.notes == ["Left out, for their endings say that they are no sound: 2."]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_a_folder_which_would_be_read_for_ever_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "a.wav").write_bytes(b"")
    corpus = find_corpus(tmp_path)
    assert [item.path for item in corpus.items] == ["a.wav"]
    assert corpus.notes == ["Left out, for they are pipes, sockets or devices: 1."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"path,text\na.wav,one\na.wav,two\n", "twice, with two texts"),
        ("m.csv", b"file,text\na.wav,one\n", 'no column "path"(.|\n)*It has: file, text'),
        ("m.csv", b"path;text\na.wav;one\n", "It has: path;text"),
        ("m.csv", b"path,text\na.wav,One, two\n", "line 2 has more fields than the header"),
        ("m.csv", "path\nü.wav\n".encode("utf-16"), "UTF-8"),
        ("m.jsonl", b'{"audio_filepath": "a.wav"}\n', "It has: audio_filepath"),
        ("m.csv", b'path\n""\n', "names no file"),
        ("m.csv", b"", "The table has no rows"),
        ("m.csv", b"path\n", "The table has no rows"),
        ("m.csv", b"path\n\xff\xfe.wav\n", "cannot be read"),
        ("m.csv", b'path\n"a.wav\n', "cannot be read"),
        ("m.jsonl", b'{"path": "a.wav"}\n{"path": "b.w', "cannot be read"),
        ("m.jsonl", b'{"path": 3}\n', "names no file"),
        ("m.parquet", b"PAR1 and no more", "cannot be read"),
        ("m.txt", b"a.wav\n", "neither a folder nor a table"),
    ],
)
def test_a_table_that_could_lose_a_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScalingError) as error:
        find_corpus(tmp_path / name)
    assert re.search(message, str(error.value))


def test_a_parquet_without_a_column_path_says_what_it_has(tmp_path):
    with pytest.raises(ScalingError, match="no column") as error:
        find_corpus(write_table(tmp_path / "m.parquet", [{"audio": "a.wav", "sentence": "One."}]))
    assert error.value.hint == "It has: audio, sentence."


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_byte_order_mark_as_windows_writes_it_is_no_part_of_a_name(tmp_path, ending):
    table = write_table(tmp_path / f"m{ending}", ROWS)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert [item.path for item in find_corpus(table).items] == [row["path"] for row in ROWS]


def test_files_of_one_name_in_two_folders_are_two_and_folders_behind_links_are_not_searched(tmp_path):
    for name in ("a/x.wav", "b/x.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert [item.path for item in find_corpus(tmp_path).items] == ["a/x.wav", "b/x.wav"]


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "moved.wav").symlink_to(tmp_path / "missing.wav")
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    corpus = find_corpus(tmp_path)
    assert ([item.path for item in corpus.items], corpus.notes) == (["circle.wav", "moved.wav"], [])


def test_a_folder_without_sound_and_no_folder_at_all_are_errors(tmp_path):
    with pytest.raises(ScalingError, match="No sound file"):
        find_corpus(tmp_path)
    with pytest.raises(ScalingError, match="no such folder"):
        find_corpus(tmp_path / "missing")
