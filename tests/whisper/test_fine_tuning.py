"""Fine-tuning: examples and batches, the loss, options that must not change it, killing and resuming."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from small_training import ASKED, SMALL, write_small
from transformers import WhisperConfig, WhisperForConditionalGeneration

from labsupport import whisper
from labsupport.base.errors import WhisperError
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus
from labsupport.speech.text import Tokenizer
from labsupport.whisper import fine_tuning
from labsupport.whisper.fine_tuning import IGNORE_INDEX, MemoryOptions, collate, loss_per_token, to_example, train


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("small"))


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


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1, 1.0), (1, 0, 1, 1.0), (1, 1, -3, 1.0), (1, 1, 1, 0.0), (1, 1, 1, math.nan)]
)
def test_numbers_that_train_nothing_are_refused_before_anything_is_loaded(tmp_path, small, numbers):
    steps, batch, accumulate, lr = numbers
    with pytest.raises(WhisperError, match="Nothing can be trained so"):
        train(tmp_path / "run", str(small), MemoryOptions(batch, accumulate), steps, lr)
    assert not (tmp_path / "run").exists()


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
