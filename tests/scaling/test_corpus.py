"""A corpus whose rows are made in this process: what is done again, what is refused, and what the rows say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import corpus_workers
import pandas as pd
import pyarrow.parquet as pq
import pytest
from corpus_workers import SETTINGS, QuickWorker, Silent, write_sounds

from labsupport.base.errors import CheckpointError, FolderError, ScalingError, WhisperError
from labsupport.base.paths import AUDIO
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.scaling import corpus
from labsupport.scaling.corpus import DIED, Pool, transcribe_corpus
from labsupport.scaling.parts import Store
from labsupport.scaling.worker import Settings, Worker

pytestmark = [pytest.mark.slow, pytest.mark.weights]  # the model's hash is part of what a row holds for


@pytest.fixture
def here(monkeypatch):
    """Rows come from this process, for what concerns them alone: Ray takes seconds for each pool of workers."""

    def make_rows(items, settings, pool, worker):
        one = worker(settings)
        for number, item in items.items():
            yield number, json.loads(one({"number": number, "file": os.fsencode(item.file)})["row"])

    monkeypatch.setattr(corpus, "ray_session", lambda *arguments: contextlib.nullcontext())
    monkeypatch.setattr(corpus, "check_gpus", lambda pool: None)
    monkeypatch.setattr(corpus, "stream_rows", make_rows)
    monkeypatch.setattr(corpus_workers, "SECONDS", 0.0)
    for name in ("use_threads", "let_threads_sleep"):  # which change the environment of a process
        monkeypatch.setattr(f"labsupport.machine.backend.{name}", lambda *arguments: None)


def run(source, output, settings=SETTINGS, worker=QuickWorker, reporter=None, **options):
    return transcribe_corpus(source, output, settings, reporter or Silent(), pool=Pool(2), worker=worker, **options)


def rows_of(output):
    return {row["path"]: row for row in pq.read_table(output).to_pylist()}


def paths_of(output):
    return Counter(pd.read_parquet(output)["path"])


# --- what is not done again ------------------------------------------------------------------------------------------


def test_what_is_done_costs_no_session_and_what_has_changed_is_done_again(here, tmp_path):
    source, output = write_sounds(tmp_path / "in", 3), tmp_path / "out"
    run(source, output)
    first = rows_of(output)
    same = run(source, output, worker=None)  # which could not work
    assert (same.before, same.done) == (3, 0)
    (source / "01.wav").write_text("another text")
    write_sounds(source, 0, new="a new text")
    again = run(source, output)
    assert (again.before, again.done) == (2, 2)
    assert rows_of(output)["01.wav"]["text"] == "another text"
    assert rows_of(output)["00.wav"] == first["00.wav"]
    assert set(paths_of(output).values()) == {1}


def test_the_output_may_lie_in_the_input_and_names_come_back_as_they_are(here, tmp_path):
    names = {f"{name}.wav": name for name in ("two  spaces", "全\u3000角", "n\xa0bsp", "ü")}
    write_sounds(tmp_path, 0, **{Path(name).stem: text for name, text in names.items()})
    for done in (4, 0):
        assert run(tmp_path, tmp_path / "out").done == done
    assert {path: row["text"] for path, row in rows_of(tmp_path / "out").items()} == names


@pytest.mark.skipif(os.name == "nt", reason="Windows has names of characters")
def test_a_name_of_bytes_that_are_no_characters_is_done_once(here, tmp_path):
    source = write_sounds(tmp_path / "in", 0)
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.wav")).write_text("a text")
    for done in (1, 0):
        assert run(source, tmp_path / "out").done == done
    assert rows_of(tmp_path / "out")["caf\\udce9.wav"]["text"] == "a text"


def test_other_options_are_refused_unless_asked_for(here, tmp_path):
    source, output = write_sounds(tmp_path / "in", 2), tmp_path / "out"
    run(source, output)
    with pytest.raises(ScalingError, match="2 files were transcribed with other options"):
        run(source, output, Settings("tiny.en", beams=1))
    assert run(source, output, Settings("tiny.en", threads=7)).before == 2
    assert run(source, output, Settings("tiny.en", beams=1), redo=True).done == 2
    assert set(paths_of(output).values()) == {1}


def test_rows_of_another_input_stay_and_are_never_mixed_with_other_options(here, tmp_path):
    first, second = write_sounds(tmp_path / "a", 2), write_sounds(tmp_path / "b", 0, other="another input")
    run(first, tmp_path / "out")
    for redo in (False, True):
        with pytest.raises(ScalingError, match="2 files that this input does not name"):
            run(second, tmp_path / "out", Settings("tiny.en", beams=1), redo=redo)
    told = Silent()
    run(second, tmp_path / "out", reporter=told)
    assert told.notes == ["Rows of files that this input does not name, which stay: 2."]
    assert sorted(paths_of(tmp_path / "out")) == ["00.wav", "01.wav", "other.wav"]


def test_a_file_whose_row_never_came_is_a_row_and_tried_again_by_the_next_call(here, tmp_path, monkeypatch):
    source, output = write_sounds(tmp_path / "in", 2), tmp_path / "out"
    with monkeypatch.context() as dying:
        dying.setattr(corpus, "stream_rows", lambda *arguments: iter(()))
        assert run(source, output).failed == 2
    assert {row["error_kind"] for row in rows_of(output).values()} == {DIED}
    again = run(source, output)
    assert (again.before, again.done, again.failed) == (0, 2, 0)
    assert set(paths_of(output).values()) == {1}


class Refusing(QuickWorker):
    def make_row(self, file):
        return {"fatal": {"what": "No such language.", "where": None, "hint": None}}


class Interrupted(QuickWorker):
    def make_row(self, file):
        if file.endswith("01.wav"):
            raise KeyboardInterrupt
        return super().make_row(file)


def test_rows_are_replaced_when_there_are_new_ones_and_not_before(here, tmp_path):
    source, output = write_sounds(tmp_path / "in", 3), tmp_path / "out"
    run(source, output)
    before, other = rows_of(output), Settings("tiny.en", beams=1)
    with pytest.raises(WhisperError, match="No such language"):
        run(source, output, other, worker=Refusing, redo=True)
    assert rows_of(output) == before
    assert run(source, output, other, worker=Interrupted, redo=True).interrupted
    assert set(paths_of(output).values()) == {1}
    assert [rows_of(output)[f"0{n}.wav"] == before[f"0{n}.wav"] for n in range(3)] == [False, True, True]
    with pytest.raises(ScalingError, match="2 files were transcribed with other options"):
        run(source, output, other)
    assert run(source, output, other, redo=True).before == 1
    assert len({row["options"] for row in rows_of(output).values()}) == 1


def test_a_model_in_a_folder_is_named_by_its_full_path_and_known_by_its_files(here, tmp_path, monkeypatch):
    folder = shutil.copytree(find_checkpoint("tiny.en").folder, tmp_path / "model")
    source = write_sounds(tmp_path / "in", 1)
    monkeypatch.chdir(tmp_path)
    seen = []

    class Noting(QuickWorker):
        def __init__(self, settings):
            super().__init__(settings)
            seen.append(settings.model)

    run(source, tmp_path / "out", Settings("./model"), worker=Noting)
    assert seen == [str(folder)]
    with (folder / "generation_config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ScalingError, match="other options"):
        run(source, tmp_path / "out", Settings("model"))


def test_another_reference_is_judged_without_transcribing_again(here, tmp_path):
    write_sounds(tmp_path, 2)
    table, output = tmp_path / "m.csv", tmp_path / "out"
    table.write_text("path,reference\n00.wav,text zero\n01.wav,\n")
    run(table, output)
    assert rows_of(output)["00.wav"]["wer"] == 0
    table.write_text("path,reference\n00.wav,quite another thing\n01.wav,(laughs)\n")
    assert run(table, output, worker=None).done == 2
    rows = rows_of(output)
    assert rows["00.wav"]["wer"] == 1
    assert rows["01.wav"]["wer"] is None
    assert "no words" in rows["01.wav"]["notes"][0]
    assert set(paths_of(output).values()) == {1}


def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_goes_on(here, tmp_path, monkeypatch):
    source, output = write_sounds(tmp_path / "in", 6), tmp_path / "out"
    monkeypatch.setattr(corpus, "ROWS", 2)
    write = Store.write

    def fill_up(store, rows):
        if store.number == 2:
            raise FolderError("The folder cannot be used: No space left on device.")
        return write(store, rows)

    with monkeypatch.context() as full:
        full.setattr(Store, "write", fill_up)
        with pytest.raises(FolderError, match="No space left"):
            run(source, output)
    summary = run(source, output)
    assert (summary.before, summary.done) == (4, 2)
    assert paths_of(output) == dict.fromkeys([f"0{n}.wav" for n in range(6)], 1)


@pytest.mark.parametrize("first", ["jfk.flac", "bad.wav", "missing.wav"])
def test_what_no_file_could_be_transcribed_with_is_an_error_and_no_row(here, tmp_path, first):
    shutil.copy(AUDIO / "jfk.flac", tmp_path)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    names = sorted(["jfk.flac", "bad.wav", "missing.wav"], key=lambda name: name != first)
    (tmp_path / "m.csv").write_text("\n".join(["path", *names]))
    with pytest.raises(WhisperError, match="English"):
        run(tmp_path / "m.csv", tmp_path / "out", Settings("tiny.en", engine="torch", language="de"), worker=Worker)
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_model_that_is_not_there_is_an_error_before_anything_is_made(tmp_path):
    with pytest.raises(CheckpointError):
        run(write_sounds(tmp_path / "in", 1), tmp_path / "out", Settings("tiny.no"))
    assert not (tmp_path / "out").exists()
