"""Files of JSON lines: whole lines are written, torn ones are cut off, odd ones are named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from labsupport.base import json_lines
from labsupport.base.errors import FolderError
from labsupport.base.paths import ROOT

ONE, TWO = {"a": 1}, {"b": "语\u2028音"}


def append(path, content):
    json_lines.append(path, content, "LAB_HOME")


def read(path):
    return json_lines.read(path, lambda content: content)


def test_what_is_added_is_read_back(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    append(path, ONE)
    append(path, TWO)
    assert read(path) == ([ONE, TWO], [])
    assert path.read_bytes().count(b"\n") == 2
    assert read(tmp_path / "absent.jsonl") == ([], [])


def test_a_line_is_on_the_disk_when_it_is_added(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    append(path, ONE)
    assert synced == [path.stat().st_size]


@pytest.mark.parametrize("tail", [b"{", b'{"a": 1', b'{"a": "\xe8\xaf', b"\0" * 70_000, b"\xff"], ids=repr)
@pytest.mark.parametrize("before", [b"", b'{"a": 1}\n', b'{"a": 1}\n' * 20_000], ids=len)
def test_a_torn_last_line_is_cut_off_before_the_next(tmp_path, caplog, before, tail):
    path = tmp_path / "a.jsonl"
    path.write_bytes(before + tail)
    append(path, TWO)
    assert path.read_bytes() == before + json.dumps(TWO, ensure_ascii=False).encode() + b"\n"
    assert f"{path}: its last line was torn ({len(tail)} bytes)" in caplog.text


def test_a_last_line_that_lacks_its_newline_alone_stays(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}')
    assert read(path) == ([ONE], [])
    append(path, TWO)
    assert read(path) == ([ONE, TWO], [])
    assert caplog.text == ""


FULL = """
import resource, signal, sys
from pathlib import Path
from labsupport.base import json_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20,) * 2)
try: json_lines.append(path, {"long": "x" * 1000}, "LAB_HOME")
except json_lines.LabError as error: print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_disk_that_is_full_in_the_middle_of_a_line_leaves_none_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    append(path, ONE)
    command = [sys.executable, "-c", FULL, path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "The folder cannot be used" in done.stdout
    assert "set LAB_HOME" in done.stdout
    assert read(path) == ([ONE], [])
    append(path, TWO)
    assert read(path) == ([ONE, TWO], [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_refusal_of_the_system_is_an_error_with_what_to_do(tmp_path, monkeypatch, code):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(json_lines, "add_whole", refuse)
    with pytest.raises(FolderError, match=os.strerror(code)) as caught:
        append(tmp_path / "a.jsonl", ONE)
    assert "LAB_HOME" in caught.value.hint


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "folder").write_text("x")
    with pytest.raises(FolderError, match="cannot be used"):
        append(tmp_path / "folder" / "a.jsonl", ONE)


# --- reading


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty"), (b"[]", "no JSON object"), (b"3", "no JSON object"), (b"\xff{}", "not UTF-8"),
        (b'{"a"', "torn or no JSON"), (b"[" * 99_999, "deep"), (b'{"a": "' + b"x" * (1 << 21) + b'"}', "torn"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds"), (b'{"a": 1}{"b": 2}', "torn or no JSON"),
    ],
    ids=["empty", "list", "number", "no UTF-8", "torn", "deep", "long", "digits", "two in one"],
)  # fmt: skip
def test_an_odd_line_is_named_and_the_others_are_read(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 1}\n')
    found, odd = read(path)
    if line.startswith(b'{"a": 1111') and sys.version_info < (3, 11):
        return  # older Pythons read any number of digits
    assert found == [ONE, ONE]
    assert [str(each).startswith(f"{path}, line 2: ") and why in each.why for each in odd] == [True]


def test_an_editors_marks_do_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 1}\r\n')
    assert read(path) == ([ONE, ONE], [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX's")
def test_what_has_the_name_of_a_file_and_is_none_is_named(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")  # whoever opens it waits for ever
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "absent")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    append(tmp_path / "deep" / "a.jsonl", ONE)
    files, odd = json_lines.find_files(tmp_path)
    assert files == [tmp_path / "deep" / "a.jsonl"]
    names = ("circle.jsonl", "folder.jsonl", "link.jsonl", "pipe.jsonl")
    assert sorted(line.where for line in odd) == [str(tmp_path / name) for name in names]
    assert json_lines.find_files(tmp_path / "nowhere") == ([], [])


def test_a_note_on_a_line_is_one_line_of_bounded_length_without_controls():
    note = str(json_lines.OddLine("a\n\x1b[31mb.jsonl, line 1", "\u202e" + "x" * 10**6))
    assert note.startswith(r"a\n\x1b[31mb.jsonl, line 1: \u202exx")
    assert len(note) <= json_lines.LONGEST_NOTE


def test_many_odd_lines_are_counted_and_the_first_named(caplog):
    json_lines.name_odd([json_lines.OddLine(f"f, line {n}", "it is torn") for n in range(1, 30)], "row")
    assert "it is no row: 29." in caplog.text
    assert "f, line 5: it is torn" in caplog.text
    assert "and 24 more" in caplog.text
    assert "line 6" not in caplog.text
