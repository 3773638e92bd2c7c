"""Fine-tuning Whisper with transformers' Seq2SeqTrainer on `data/corpus`, with an option for each saving of memory.

    python -m labsupport.whisper.fine_tuning FOLDER --steps 4 --batch 4 --accumulate 8 --checkpointing --bf16

It is a command so that its memory can be measured and so that it can be killed: started again with the same folder,
it resumes from the newest whole checkpoint. FOLDER/report.json is its report, FOLDER/model its model, for
`whisper.load`. torch and transformers.

Source: article C, section 4.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import typer

from labsupport.base import paths
from labsupport.base.cached_folder import hash_file
from labsupport.base.errors import LabError, WhisperError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint, find_checkpoint
from labsupport.checkpoints.safetensors_files import find_weights
from labsupport.speech import corpus, features
from labsupport.speech.text import Tokenizer
from labsupport.whisper.token_filters import check_vocabulary, make_prompt
from labsupport.whisper.training_checkpoints import (
    Training,
    find_last,
    finish_saves,
    load_finished,
    read_history,
    refuse_others,
    reserve,
    save_model,
    step_of,
    unfinished,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

IGNORE_INDEX = -100  # a label that the loss leaves out
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryOptions:
    """What saves memory."""

    batch: int = 4  # sentences in memory at once
    accumulate: int = 8  # batches for each optimiser step
    checkpointing: bool = False  # transformers', which computes every layer's activations again
    bf16: bool = False  # bfloat16 where it is safe, float32 elsewhere


def describe_training(checkpoint: Checkpoint, options: MemoryOptions, steps: int, lr: float) -> Training:
    """Raises WhisperError where a number is not what it must be."""
    counts = {"steps": steps, "batch": options.batch, "accumulate": options.accumulate}
    if not (math.isfinite(lr) and lr > 0) or min(counts.values()) < 1:
        given = ", ".join(f"{name} {value}" for name, value in {**counts, "lr": lr}.items())
        raise WhisperError("Nothing can be trained so.", where=given, hint="Each of them must be above 0.")
    hashes = "".join(map(hash_file, find_weights(checkpoint.folder)))
    weights = hashlib.sha256(hashes.encode()).hexdigest()
    return Training(weights, lr, options.batch, options.accumulate, options.bf16, steps)


def to_example(sentence: corpus.Sentence, tokenizer: Tokenizer, config: Config) -> dict[str, np.ndarray]:
    """A spoken sentence: "input_features" (mels, 3000) float32, and "labels" (length,) int64, its prompt and tokens."""
    prompt = make_prompt(tokenizer, "en" if config.multilingual else None, timestamps=False)
    tokens = [*prompt, *tokenizer.encode(f" {sentence.text}"), tokenizer.eot]
    mel = features.window(features.log_mel(sentence.samples, config.mels), 0)
    return {"input_features": mel, "labels": np.array(tokens)}


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Examples as one batch: for each token that the decoder reads, the label is the one that follows."""
    import torch

    longest = max(len(example["labels"]) for example in examples)
    tokens = np.full((len(examples), longest), IGNORE_INDEX)  # (batch, longest)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example["labels"])] = example["labels"]
    inputs, labels = tokens[:, :-1].copy(), tokens[:, 1:].copy()  # (batch, longest - 1) each
    inputs[inputs == IGNORE_INDEX] = 0  # any token: the loss leaves these places out
    mel = np.stack([example["input_features"] for example in examples])  # (batch, mels, 3000)
    arrays = {"input_features": mel, "decoder_input_ids": inputs, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loss_per_token(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """The mean loss over all tokens of the optimiser step, not over those of each small batch.

    transformers' Whisper averages within a batch, and the trainer then averages those means: a token in a batch of
    short sentences then counts for more than others, and the gradient is not that of one large batch.
    """
    import torch.nn.functional as F

    total = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORE_INDEX).sum())


def make_trainer(
    folder: Path, checkpoint: Checkpoint, options: MemoryOptions, asked: Training, save: bool
) -> Seq2SeqTrainer:
    """A trainer on these weights and the training sentences, with a checkpoint in `folder` after every step."""
    from transformers import PrinterCallback, Seq2SeqTrainer, WhisperForConditionalGeneration

    tokenizer = Tokenizer(checkpoint.folder)
    check_vocabulary(tokenizer, checkpoint)
    examples = [to_example(sentence, tokenizer, checkpoint.config) for sentence in corpus.load("train")]
    model = WhisperForConditionalGeneration.from_pretrained(
        checkpoint.folder, use_safetensors=True, local_files_only=True
    )
    model.config.use_cache = False  # useless in training, and checkpointing cannot do with it
    with own_precision():
        trainer = Seq2SeqTrainer(
            model, training_arguments(folder, options, asked, save), train_dataset=examples, data_collator=collate,
            compute_loss_func=loss_per_token,
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # the losses are in the report
    trainer.add_callback(finish_saves(folder, asked))
    return trainer


def training_arguments(folder: Path, options: MemoryOptions, asked: Training, save: bool) -> Seq2SeqTrainingArguments:
    import torch
    from transformers import Seq2SeqTrainingArguments

    return Seq2SeqTrainingArguments(
        output_dir=str(unfinished(folder)),
        max_steps=asked.steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        gradient_checkpointing=options.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),  # else bfloat16 is refused on a CPU
        learning_rate=asked.lr,
        logging_steps=1,
        save_strategy="steps" if save else "no",
        save_steps=1,
        seed=0,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


@contextlib.contextmanager
def own_precision() -> Iterator[None]:
    """Inside, a trainer takes the precision of its own arguments, and leaves it to no other.

    transformers writes bfloat16 into a variable of the environment and never takes it back: every later trainer without
    it, in this process or in a child, would train in bfloat16 all the same.
    """
    name = "ACCELERATE_MIXED_PRECISION"
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def train(folder: Path, name: str, options: MemoryOptions, steps: int, lr: float = 2e-5, save: bool = True) -> dict:
    """Trains to the end, from the newest whole checkpoint in `folder` if there is one; writes the report and the model.

    The report has "losses" of every step, "resumed" (the checkpoint's step, or 0), "seconds", and "peak_bytes" above
    what the process held before its first step.

    Raises:
        CheckpointError: the model cannot be had, or the checkpoints are of other weights or options.
        FolderError: the folder cannot be written to, or its disk is full.
        WhisperError: another process trains there, or a number is not what it must be.
    """
    from labsupport.results import memory

    checkpoint = find_checkpoint(name)
    asked = describe_training(checkpoint, options, steps, lr)
    with reserve(folder):
        last = find_last(folder / "steps", checkpoint)
        if last:
            refuse_others(last, asked)
            history = read_history(last)
            log.warning("The training resumes from %s.", last.name)
        start, peak = time.perf_counter(), 0
        if last and step_of(last) >= steps:  # killed after its last step, or finished: the trainer would do one more
            model = load_finished(last)
        else:
            trainer = make_trainer(folder, checkpoint, options, asked, save)
            start = time.perf_counter()
            _, peak = memory.peak_memory(lambda: trainer.train(resume_from_checkpoint=str(last) if last else None))
            model, history = cast("PreTrainedModel", trainer.model), trainer.state.log_history
        report = {
            "losses": [entry["loss"] for entry in history if "loss" in entry],
            "resumed": step_of(last) if last else 0,
            "seconds": time.perf_counter() - start,
            "peak_bytes": peak,
        }
        if save:
            save_model(model, folder / "model", checkpoint.folder)
        with paths.atomic_write(folder / "report.json") as part:
            part.write_text(json.dumps(report), encoding="utf-8")
    return report


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where checkpoints, report and model go.")],
    model: Annotated[str, typer.Option(help="A packaged model, or a folder.")] = "tiny.en",
    steps: Annotated[int, typer.Option(help="The optimiser's steps.")] = 4,
    batch: Annotated[int, typer.Option(help="Sentences in memory at once.")] = 4,
    accumulate: Annotated[int, typer.Option(help="Batches for each step.")] = 8,
    lr: Annotated[float, typer.Option(help="The learning rate of the first step; it falls to zero.")] = 2e-5,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again.")] = False,
    bf16: Annotated[bool, typer.Option(help="bfloat16 where it is safe.")] = False,
    save: Annotated[bool, typer.Option(help="Write checkpoints and the model.")] = True,
) -> None:
    """Fine-tunes on the corpus; started again with the same folder, it resumes from the newest whole checkpoint."""
    try:
        report = train(folder, model, MemoryOptions(batch, accumulate, checkpointing, bf16), steps, lr, save)
    except LabError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    print(json.dumps(report))


if __name__ == "__main__":
    app()
