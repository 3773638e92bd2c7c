"""Checkpoints of a training are whole or not there, and only those of the same training are resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import train_in_fork
from small_training import ASKED, SMALL, write_small

from labsupport import whisper
from labsupport.base.cached_folder import find_damage
from labsupport.base.errors import CheckpointError, FolderError, WhisperError
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus
from labsupport.whisper import training_checkpoints
from labsupport.whisper.fine_tuning import MemoryOptions, train


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "load", lambda _split: load_corpus("train")[:2])
        train(folder, str(small), MemoryOptions(1, 1), steps=2)
    return folder


load_corpus = corpus.load


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "load", lambda _split: load_corpus("train")[:2])
    return Path(shutil.copytree(trained, tmp_path / "run"))


def cut_weights(checkpoint):
    os.truncate(checkpoint / "model.safetensors", 1000)


def lose_state(checkpoint):
    (checkpoint / "trainer_state.json").unlink()


def lose_optimizer(checkpoint):
    (checkpoint / "optimizer.pt").unlink()


def flip_a_bit(checkpoint):
    content = bytearray((checkpoint / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(content)


def lose_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def shorten_manifest(checkpoint):
    """The optimiser's file is gone, and the manifest knows of none: the trainer would begin it anew."""
    (checkpoint / "optimizer.pt").unlink()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["optimizer.pt"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def become_a_file(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.write_text("no folder")


def become_a_link(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.symlink_to("nowhere")


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


SPOILS = [cut_weights, lose_state, lose_optimizer, flip_a_bit, lose_manifest, shorten_manifest, empty]
SPOILS += [become_a_file, become_a_link]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_half_checkpoint_is_left_out_and_the_one_before_it_taken(folder, small, spoil, caplog):
    before = json.loads((folder / "report.json").read_text())["losses"]
    spoil(folder / "steps" / "checkpoint-2")
    report = train(folder, str(small), MemoryOptions(1, 1), steps=2)
    assert report["resumed"] == 1
    assert np.allclose(report["losses"], before, rtol=1e-3)
    assert "checkpoint-2 is not whole (" in caplog.text
    assert "resumes from checkpoint-1" in caplog.text
    assert all(find_damage(folder / "steps" / f"checkpoint-{step}") is None for step in (1, 2))
    assert not list(folder.rglob("*.part")) + list(folder.rglob("*.old"))


@pytest.mark.slow
def test_damaged_checkpoints_of_later_steps_take_no_whole_ones_place(folder, small):
    """Killed in its third step, a training that began anew before damaged checkpoints has its second and first."""
    steps = folder / "steps"
    for number in (8, 9):
        (steps / f"checkpoint-{number - 7}").rename(steps / f"checkpoint-{number}")
        cut_weights(steps / f"checkpoint-{number}")
    assert train(folder, str(small), MemoryOptions(1, 1), steps=2)["resumed"] == 0
    assert training_checkpoints.step_of(training_checkpoints.find_last(steps, find_checkpoint(small))) == 2
    assert sorted(path.name for path in steps.glob("c*")) == ["checkpoint-1", "checkpoint-2"]


def test_numbers_decide_which_checkpoint_is_the_newest(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint--1", ".unfinished", "checkpoint-3.old"):
        (tmp_path / name).mkdir()
    assert [path.name for path in training_checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.slow
def test_only_the_newest_two_stay_and_a_finished_training_adds_nothing(folder, small):
    for steps in (3, 3):
        report = train(folder, str(small), MemoryOptions(1, 1), steps=steps)
        assert len(report["losses"]) == 3
        assert sorted(p.name for p in (folder / "steps").glob("c*")) == ["checkpoint-2", "checkpoint-3"]
    shutil.rmtree(folder / "model")  # as after a kill between the last checkpoint and the model
    assert train(folder, str(small), MemoryOptions(1, 1), steps=3)["losses"] == report["losses"]
    assert find_damage(folder / "model") is None


@pytest.mark.slow
def test_the_checkpoints_of_another_model_are_refused(folder, tmp_path):
    other = replace(SMALL, d_model=16)
    (tmp_path / "other").mkdir()
    write_small(tmp_path / "other", other)
    with pytest.raises(CheckpointError, match="of another model than other"):
        train(folder, str(tmp_path / "other"), MemoryOptions(1, 1), steps=3)


@pytest.mark.slow
def test_checkpoints_of_other_weights_or_options_are_refused_and_other_steps_told(folder, small, tmp_path, caplog):
    (tmp_path / "small").mkdir()
    calls = {
        "other weights": (write_small(tmp_path / "small", seed=1), MemoryOptions(1, 1), 2e-5),
        "lr 2e-05, not 0.001": (small, MemoryOptions(1, 1), 1e-3),
        "batch 1, not 2; accumulate 1, not 3": (small, MemoryOptions(2, 3), 2e-5),
        "bf16 False, not True": (small, MemoryOptions(1, 1, bf16=True), 2e-5),
    }
    for said, (model, options, lr) in calls.items():
        with pytest.raises(CheckpointError, match=f"trained with {re.escape(said)}\\."):
            train(folder, str(model), options, 3, lr)
    assert train(folder, str(small), MemoryOptions(1, 1, checkpointing=True), steps=1)["resumed"] == 2
    assert "fell as for 2 steps, not 1" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": 1}', "[" * 100_000, "\0"], ids=lambda text: text[:9])
def test_a_training_that_another_version_noted_is_refused(tmp_path, content):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(CheckpointError, match="of another version of the lab"):
        training_checkpoints.refuse_others(tmp_path, ASKED)


def test_a_training_of_an_older_lab_goes_on_and_one_of_a_newer_with_more_fields_too(tmp_path, caplog):
    training_checkpoints.refuse_others(tmp_path, ASKED)
    assert "an older lab wrote it" in caplog.text
    caplog.clear()
    (tmp_path / "training.json").write_text(json.dumps({**asdict(ASKED), "schema": 9, "corpus": "new"}))
    training_checkpoints.refuse_others(tmp_path, ASKED)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content", ['{"global_step": 3, "colour": 1}', '{"global_step": "3"}', "[]", "3", "", '{"log_history": [3]}']
)
def test_a_state_that_another_transformers_wrote_is_refused(tmp_path, content):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text(content)
    with pytest.raises(CheckpointError, match="of another version of transformers"):
        training_checkpoints.read_history(tmp_path / "checkpoint-3")


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    taken = pytest.raises(WhisperError, match="Another process is training")
    with training_checkpoints.reserve(tmp_path), taken, training_checkpoints.reserve(tmp_path):
        pass


@pytest.mark.slow
def test_a_full_disk_ends_the_training_and_leaves_what_was_whole(folder, small, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_checkpoints, "seal", fail)
    with pytest.raises(FolderError, match="No space left"):
        train(folder, str(small), MemoryOptions(1, 1), steps=3)
    assert training_checkpoints.find_last(folder / "steps", find_checkpoint(small)).name == "checkpoint-2"
    assert find_damage(folder / "model") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path, small):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FolderError, match="taken"):
        train(tmp_path / "taken", str(small), MemoryOptions(1, 1), steps=1)


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_folder_replaced_by_another_is_one_of_the_two_wherever_the_process_dies(tmp_path, monkeypatch, renamed):
    target = tmp_path / "model"
    for content in ("old", "new"):
        part = tmp_path / ".model.part"
        part.mkdir()
        (part / "file").write_text(content)
        if content == "new":
            monkeypatch.setattr(Path, "rename", die_after(renamed))
        with contextlib.suppress(KeyboardInterrupt):
            training_checkpoints.put_in_place(part, target)
    monkeypatch.undo()
    training_checkpoints.bring_back(target)
    assert find_damage(target) is None
    assert (target / "file").read_text() == ("new" if renamed == 2 else "old")


def die_after(count: int):
    """`Path.rename` that works so many times."""
    rename, calls = Path.rename, []

    def once_too_often(self, target):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(target)
        return rename(self, target)

    return once_too_often


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks, which start in a moment")
def test_a_training_killed_at_random_points_loses_no_step_and_doubles_none(tmp_path, small, monkeypatch, kill_times):
    last = 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(train_in_fork.IMPORTS)
    checkpoint = find_checkpoint(small)
    for seconds in kill_times(0.6):
        begun = context.Event()
        process = context.Process(target=train_in_fork.train_on, args=(str(tmp_path), str(small), begun))
        process.start()
        assert begun.wait(120), "the training did not begin"
        time.sleep(seconds)
        process.kill()
        process.join()
        newest = training_checkpoints.find_last(tmp_path / "steps", checkpoint)
        if newest is not None:
            assert training_checkpoints.step_of(newest) >= last
            last = training_checkpoints.step_of(newest)
    monkeypatch.setattr(corpus, "load", lambda _split: load_corpus("train")[:2])
    report = train(tmp_path, str(small), MemoryOptions(1, 1), steps=last + 1)
    assert (report["resumed"], len(report["losses"])) == (last, last + 1)
    assert whisper.load(str(tmp_path / "model"), device="cpu").label == "model"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == ["model", "report.json", "steps"]
