"""Where transcripts go: what is printed, and which files a folder gets."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
from odd_audio import BYTE_NAME

from labsupport.base.errors import FolderError, TextError
from labsupport.speech.text import Segment, Transcript
from labsupport.whisper.outputs import (
    FolderWriter,
    Output,
    ScreenError,
    ScreenWriter,
    check_forms,
    choose_names,
    open_writer,
    show_name,
)

TWO = Transcript(" One. Two.", [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")], "en", duration=3.0)
VOICES = [(None, TWO)]
ALL = ["text", "srt", "vtt", "tsv", "json"]


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "folder", "forms"),
    [
        (None, None, ["text"]),
        (None, "out", ALL),
        (["srt,vtt", "txt"], "out", ["srt", "vtt", "text"]),
        (["all", "srt"], None, ALL),
        (["json", "json"], None, ["json"]),
    ],
)
def test_forms_are_given_with_commas_or_one_by_one(given, folder, forms):
    assert Output.parse(given, folder, False) == Output(forms, Path(folder) if folder else None)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_folder_without_a_name_is_not_the_current_one(name):
    with pytest.raises(FolderError, match="no name"):
        Output.parse(None, name, False)


@pytest.mark.parametrize(("form", "empty"), [("srt", ""), ("vtt", "WEBVTT\n\n"), ("tsv", "start\tend\ttext\n")])
def test_several_files_are_not_printed_as_one_document(form, empty, capsys):
    with pytest.raises(TextError, match=f"cannot be one {form} document") as refused:
        check_forms(Output([form]), ["a.wav", "b\n.wav"])
    assert refused.value.where == "a.wav, b\\n.wav"
    assert "--output-dir" in refused.value.hint
    assert capsys.readouterr().out == empty
    check_forms(Output([form]), ["a.wav"])
    check_forms(Output([form], Path("out")), ["a.wav", "b.wav"])


def test_unknown_and_several_forms_are_refused():
    with pytest.raises(TextError, match="pdf"):
        check_forms(Output(["pdf"]), ["a.wav"])
    with pytest.raises(TextError, match="need a folder"):
        check_forms(Output(["srt", "vtt"]), ["a.wav"])


# --- printing --------------------------------------------------------------------------------------------------------


def write_all(output: Output, files: dict) -> None:
    with open_writer(output, list(files)) as writer:
        for file, voices in files.items():
            writer.check(file)
            writer.write(file, voices)


@pytest.mark.parametrize(
    ("form", "timestamps", "printed"),
    [
        ("text", False, "One. Two.\n"),
        ("text", True, "[   0.00 -    1.50]  One.\n[   1.50 -    3.00]  Two.\n"),
        ("srt", False, "1\n00:00:00,000 --> 00:00:01,500\nOne.\n\n2\n00:00:01,500 --> 00:00:03,000\nTwo.\n\n"),
        ("tsv", False, "start\tend\ttext\n0\t1500\tOne.\n1500\t3000\tTwo.\n"),
    ],
)
def test_a_form_is_printed(capsys, form, timestamps, printed):
    write_all(Output([form], timestamps=timestamps), {"a.wav": VOICES})
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_array(capsys, count):
    write_all(Output(["json"]), {f"{number}.wav": VOICES for number in range(count)})
    assert [each["file"] for each in json.loads(capsys.readouterr().out)] == [f"{n}.wav" for n in range(count)]


def test_each_channel_is_an_object(capsys):
    write_all(Output(["json"]), {"-": [(1, TWO), (2, TWO)]})
    printed = json.loads(capsys.readouterr().out)
    assert [(each["file"], each["channel"]) for each in printed] == [("standard input", 1), ("standard input", 2)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, TextError, ZeroDivisionError])
def test_json_is_whole_after_any_end(capsys, error):
    def work():
        with open_writer(Output(["json"]), ["a.wav"]) as writer:
            writer.write("a.wav", VOICES)
            raise error("stop")

    with pytest.raises(error):
        work()
    assert len(json.loads(capsys.readouterr().out)) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_json_is_valid_in_every_encoding(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    spoken = Transcript("é 日本 \x9b", [], "ja")
    write_all(Output(["json"]), {BYTE_NAME: [(None, spoken)]})
    (document,) = json.loads(stream.buffer.getvalue().decode(encoding))
    assert (document["file"], document["text"]) == (BYTE_NAME, spoken.text)


class FullDisk(io.StringIO):
    def __init__(self, code: int):
        super().__init__()
        self.code = code

    def flush(self):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, ScreenError), (errno.EPIPE, BrokenPipeError)])
def test_a_full_disk_is_an_error_and_a_reader_that_has_gone_is_not(monkeypatch, code, error):
    monkeypatch.setattr(sys, "stdout", FullDisk(code))
    with pytest.raises(error):
        ScreenWriter(Output()).write("a.wav", VOICES)


def test_a_closed_output_is_an_error_before_the_work(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ScreenError, match="closed"):
        open_writer(Output(), ["a.wav"])


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_gets_every_form_of_every_file(tmp_path, capsys):
    folder = tmp_path / "new" / "out"
    write_all(Output(ALL, folder), {"a/x.wav": VOICES, "y.2.mp3": VOICES, "-": VOICES})
    ends = ("txt", "srt", "vtt", "tsv", "json")
    assert {path.name for path in folder.iterdir()} == {f"{n}.{e}" for n in ("x", "y.2", "stdin") for e in ends}
    assert (folder / "x.txt").read_bytes() == b"One.\nTwo.\n"
    assert json.loads((folder / "x.json").read_text())["file"] == "a/x.wav"
    assert json.loads((folder / "stdin.json").read_text())["file"] == "standard input"
    assert capsys.readouterr().out == ""


def test_a_json_file_of_separate_channels_is_an_array(tmp_path):
    write_all(Output(["json", "vtt"], tmp_path), {"x.wav": [(1, TWO), (2, TWO)]})
    assert [each["channel"] for each in json.loads((tmp_path / "x.json").read_text())] == [1, 2]
    assert (tmp_path / "x.vtt").read_text().count("WEBVTT") == 1


def test_files_have_the_rights_that_this_user_gives_new_ones(tmp_path):
    (tmp_path / "plain").write_text("")
    write_all(Output(["text"], tmp_path), {"x.wav": VOICES})
    assert (tmp_path / "x.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a\nb\x1b[31m.wav", "'\" é 日本.wav", "-x.wav", BYTE_NAME, "n" * 250 + ".wav"])
def test_outputs_have_the_inputs_own_name(tmp_path, name):
    write_all(Output(["text"], tmp_path), {name: VOICES})
    assert os.listdir(tmp_path) == [name.removesuffix(".wav") + ".txt"]


@pytest.mark.parametrize("name", ["n" * 251, "n" * 255, "\u00e9" * 126, "\u65e5" * 84])
def test_a_name_that_is_too_long_with_its_ending_fails_before_the_work(tmp_path, name):
    """Of 255 bytes, which are not characters."""
    writer = open_writer(Output(["json"], tmp_path), [name])
    with pytest.raises(FolderError, match=f"name has {len(name.encode()) + 5} bytes.* too long") as refused:
        writer.check(name)
    assert "Rename the input" in refused.value.hint


def test_the_temporary_name_must_have_room_too(tmp_path, monkeypatch):
    """On a file system of short names, such as eCryptfs."""

    def lstat(path):
        if len(os.fsencode(path.name)) > 143:
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        raise FileNotFoundError

    name = "\u65e5" * 46
    writer = open_writer(Output(["json"], tmp_path), [name])
    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(FolderError, match="too long"):
        writer.check(name)


@pytest.mark.parametrize("name", ["\u65e5" * 83, "n" * 250, "\U0001f600" * 62])
def test_the_longest_names_have_their_outputs(tmp_path, name):
    write_all(Output(["json"], tmp_path), {name: VOICES})
    assert os.listdir(tmp_path) == [f"{name}.json"]


def test_a_folder_in_the_place_of_an_output_is_an_error_before_the_work(tmp_path):
    (tmp_path / "x.txt").mkdir()
    writer = open_writer(Output(["text"], tmp_path), ["x.wav"])
    with pytest.raises(FolderError, match="name of the output"):
        writer.check("x.wav")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fill_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="No space"):
        write_all(Output(["text"], tmp_path), {"x.wav": VOICES})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/x.wav", "a/y.mp3", "-"], ["x", "y", "stdin"]),
        (["x.wav", "x.mp3"], ["x.wav", "x.mp3"]),
        (["X.wav", "x.mp3"], ["X.wav", "x.mp3"]),
        (["e\u0301.wav", "\u00e9.mp3"], ["e\u0301.wav", "\u00e9.mp3"]),
        (["x.wav", "x.wav"], ["x"]),
        ([".wav", "talk"], [".wav", "talk"]),
    ],
)
def test_no_input_overwrites_anothers_output(files, names):
    assert list(choose_names(files).values()) == names


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["a/x.wav", "b/X.wav"], "a/x.wav, b/X.wav"),
        (["x.wav", "x.mp3", "x.wav.flac"], "x.wav, x.wav.flac"),
        (["-", "stdin.wav", "b/stdin.wav"], "stdin.wav, b/stdin.wav"),
        (["a/x.wav", "b/x.wav", "y.wav", "c/x.wav"], "a/x.wav, b/x.wav, c/x.wav"),
        (["a/x.wav", "a/y.wav", "b/x.wav", "b/y.wav"], "a/x.wav, b/x.wav; a/y.wav, b/y.wav"),
        ([f"{n}/x.wav" for n in range(8)], "0/x.wav, 1/x.wav, 2/x.wav, 3/x.wav, 4/x.wav, and 3 more"),
    ],
)
def test_inputs_of_one_name_are_refused_before_the_work_and_all_named(files, named):
    with pytest.raises(FolderError, match="one file") as refused:
        choose_names(files)
    assert refused.value.where == named


def test_an_output_is_not_written_over_an_input(tmp_path):
    (tmp_path / "x.txt").write_text("a sound with a strange name")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(FolderError, match="over an input"):
            open_writer(Output(["text"], folder), ["missing.wav", str(tmp_path / "x.txt")])
    open_writer(Output(["srt"], tmp_path), [str(tmp_path / "x.txt")])


@pytest.mark.parametrize(("folder", "message"), [("file/out", "cannot be written to"), ("file", "not a folder")])
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, folder, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=message):
        FolderWriter(tmp_path / folder, Output(["text"]), ["x.wav"])


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_shown_without_what_a_terminal_would_obey():
    assert show_name("a\x1b[31m\r\n.wav") == r"a\x1b[31m\r\n.wav"
    assert show_name(BYTE_NAME) == r"caf\udce9.wav"
    assert show_name("é 日本 '\".wav") == "é 日本 '\".wav"
    assert show_name("-") == "standard input"
