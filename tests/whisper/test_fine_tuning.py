"""Fine-tuning: what goes in, the loss, that memory switches change no number that they should not, kill and resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from labsupport import whisper
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus
from labsupport.speech.text import Tokenizer
from labsupport.whisper import fine_tuning
from labsupport.whisper.fine_tuning import IGNORED, Switches, collate, mean_over_all, to_example, train


@pytest.fixture(scope="module")
def examples():
    checkpoint = find_checkpoint("tiny.en")
    tokenizer = Tokenizer(checkpoint.folder)
    return [to_example(sentence, tokenizer, checkpoint.config) for sentence in corpus.load("train")[:8]]


def small_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 51864}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return WhisperForConditionalGeneration(WhisperConfig(**shape, **heads))


def test_an_example_is_the_sound_and_the_prompt_with_its_text(examples):
    tokenizer = Tokenizer(find_checkpoint("tiny.en").folder)
    assert examples[0]["input_features"].shape == (80, 3000)
    assert tokenizer.decode(examples[0]["labels"]).strip() == corpus.load("train")[0].text
    assert examples[0]["labels"][-1] == tokenizer.eot


def test_each_token_read_is_to_say_its_successor(examples):
    batch = collate(examples[:3])
    for row, example in enumerate(examples[:3]):
        tokens, length = example["labels"], len(example["labels"]) - 1
        assert np.array_equal(batch["decoder_input_ids"][row, :length], tokens[:-1])
        assert np.array_equal(batch["labels"][row, :length], tokens[1:])
        assert (batch["labels"][row, length:] == IGNORED).all()
    assert (batch["decoder_input_ids"] >= 0).all()


def test_the_loss_of_one_batch_is_transformers_own(examples):
    model, batch = small_model(), collate(examples[:3])
    outputs = model(**batch)
    assert torch.allclose(mean_over_all(outputs, batch["labels"]), outputs.loss, rtol=1e-6)


def gradient(model, examples, batch: int, count: int | None) -> torch.Tensor:
    model.zero_grad()
    for first in range(0, len(examples), batch):
        inputs = collate(examples[first : first + batch])
        labels = inputs.pop("labels")
        mean_over_all(model(**inputs), labels, count).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_accumulated_over_all_tokens_the_gradient_is_that_of_one_large_batch(examples):
    count = sum(len(example["labels"]) - 1 for example in examples)
    whole, parts = (gradient(small_model(), examples, batch, count) for batch in (8, 2))
    assert (whole - parts).norm() < 1e-5 * whole.norm()
    of_means = gradient(small_model(), examples, 2, None) / 4
    assert (whole - of_means).norm() > 1e-3 * whole.norm(), "what transformers does by itself"


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    """The same losses as without the kill, and a model that our own Whisper reads."""
    options = ["--steps", "2", "--batch", "1", "--accumulate", "2", "--checkpointing"]
    command = [sys.executable, "-m", "labsupport.whisper.fine_tuning", str(tmp_path / "killed"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "steps" / "checkpoint-1" / "trainer_state.json"
    while not state.exists():
        assert process.poll() is None, "the training ended before its first step"
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    switches = Switches(batch=1, accumulate=2, checkpointing=True)
    resumed = train(tmp_path / "killed", "tiny.en", switches, steps=2)
    whole = train(tmp_path / "whole", "tiny.en", switches, steps=2)
    assert (resumed["resumed"], whole["resumed"]) == (1, 0)
    assert len(whole["losses"]) == 2
    assert np.allclose(resumed["losses"], whole["losses"], rtol=1e-3)
    assert json.loads((tmp_path / "killed" / "report.json").read_text()) == resumed
    trained = whisper.load(tmp_path / "killed" / "model", device="cpu").model.state_dict()
    first = whisper.load("tiny.en", device="cpu").model.state_dict()
    assert trained.keys() == first.keys()
    moved = [name for name in trained if not torch.equal(trained[name], first[name])]
    assert "encoder.layers.0.fc1.weight" in moved


def test_switches_change_memory_and_not_the_loss(tmp_path):
    reports = {
        switches: train(tmp_path / str(number), "tiny.en", switches, steps=1, save=False)
        for number, switches in enumerate(
            [Switches(2, 1), Switches(1, 2), Switches(2, 1, checkpointing=True), Switches(2, 1, half=True)]
        )
    }
    losses = [report["losses"][0] for report in reports.values()]
    assert np.allclose(losses[1:3], losses[0], rtol=1e-3)
    assert np.isclose(losses[3], losses[0], rtol=0.05)
    assert not (tmp_path / "0" / "model").exists()
    assert fine_tuning.Switches() == Switches(4, 8)
