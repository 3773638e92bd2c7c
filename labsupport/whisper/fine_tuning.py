"""Fine-tuning Whisper with transformers' Seq2SeqTrainer on `data/corpus`, with a switch for each saving of memory.

    python -m labsupport.whisper.fine_tuning FOLDER --steps 4 --batch 4 --accumulate 8 --checkpointing --half

It is a command so that its memory is its own process', and so that it can be killed: started again with the same
folder, it goes on from the last checkpoint. What it did is in FOLDER/report.json, the model in FOLDER/model, for
`whisper.load`. torch and transformers.

Source: article C, section 4.1.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from labsupport.base import paths
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import corpus, features
from labsupport.speech.text import Tokenizer
from labsupport.whisper.token_filters import make_prompt

if TYPE_CHECKING:
    import torch
    from transformers import Seq2SeqTrainer

IGNORED = -100  # what a loss leaves out


@dataclass(frozen=True)
class Switches:
    """What saves memory. batch: sentences that are in memory at once; accumulate: batches for each optimiser step;
    checkpointing: transformers', every layer computed again; half: bfloat16 where it is safe, float32 elsewhere.
    """

    batch: int = 4
    accumulate: int = 8
    checkpointing: bool = False
    half: bool = False


def to_example(sentence: corpus.Sentence, tokenizer: Tokenizer, config: Config) -> dict[str, np.ndarray]:
    """A spoken sentence as the model reads it: "input_features" (mels, 3000) float32, and "labels", its tokens."""
    prompt = make_prompt(tokenizer, "en" if config.multilingual else None, timestamps=False)
    tokens = [*prompt, *tokenizer.encode(f" {sentence.text}"), tokenizer.eot]
    mel = features.window(features.log_mel(sentence.samples, config.mels), 0)
    return {"input_features": mel, "labels": np.array(tokens)}


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Examples as one batch: the decoder reads a text's tokens and is to say each one's successor."""
    import torch

    longest = max(len(example["labels"]) for example in examples)
    tokens = np.full((len(examples), longest), IGNORED)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example["labels"])] = example["labels"]
    read, say = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    read[read == IGNORED] = 0  # what is read there has no say in any loss
    sounds = np.stack([example["input_features"] for example in examples])
    arrays = {"input_features": sounds, "decoder_input_ids": read, "labels": say}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def mean_over_all(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """The loss per token of the whole optimiser step, not per token of each small batch.

    transformers' own Whisper averages within a batch, and the trainer then averages those means: a token in a batch of
    short sentences counts for more than one among long ones, and the gradient is not that of one large batch.
    """
    import torch.nn.functional as F

    total = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def make_trainer(folder: Path, name: str, switches: Switches, steps: int, rate: float, save: bool) -> Seq2SeqTrainer:
    """A trainer on the packaged weights and the training sentences, with a checkpoint after every step."""
    import torch
    from transformers import (
        PrinterCallback,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
    )

    checkpoint = find_checkpoint(name)
    tokenizer = Tokenizer(checkpoint.folder)
    examples = [to_example(sentence, tokenizer, checkpoint.config) for sentence in corpus.load("train")]
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder / "steps"),
        max_steps=steps,
        per_device_train_batch_size=switches.batch,
        gradient_accumulation_steps=switches.accumulate,
        gradient_checkpointing=switches.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=switches.half,
        use_cpu=not torch.cuda.is_available(),  # said aloud, for bfloat16 is refused otherwise
        learning_rate=rate,
        logging_steps=1,
        save_strategy="steps" if save else "no",
        save_steps=1,
        save_total_limit=2,
        seed=0,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint.folder)
    model.config.use_cache = False  # of no use in training, and of harm to checkpointing
    trainer = Seq2SeqTrainer(
        model, arguments, train_dataset=examples, data_collator=collate, compute_loss_func=mean_over_all
    )
    trainer.remove_callback(PrinterCallback)  # the report has the losses
    return trainer


def train(folder: Path, name: str, switches: Switches, steps: int, rate: float = 2e-5, save: bool = True) -> dict:
    """Trains to the end, from the last checkpoint in `folder` if there is one, and writes the report and the model.

    Returns:
        the report: "losses" of every step, "resumed" (the step gone on from, or 0), "seconds" and "peak_bytes" of this
        process, above what it had taken before the first step.
    """
    from transformers.trainer_utils import get_last_checkpoint

    from labsupport.results import memory

    trainer = make_trainer(folder, name, switches, steps, rate, save)
    last = get_last_checkpoint(trainer.args.output_dir) if Path(trainer.args.output_dir).is_dir() else None
    start = time.perf_counter()
    _, peak = memory.peak_memory(lambda: trainer.train(resume_from_checkpoint=last))
    report = {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "resumed": int(last.rpartition("-")[2]) if last else 0,
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak,
    }
    if save:
        save_model(trainer, folder / "model", find_checkpoint(name).folder)
    with paths.atomic_write(folder / "report.json") as part:
        Path(part).write_text(json.dumps(report), encoding="utf-8")
    return report


def save_model(trainer: Seq2SeqTrainer, folder: Path, source: Path) -> None:
    """Writes weights and configuration, and beside them what the source has for reading text, for `whisper.load`."""
    trainer.model.save_pretrained(folder)
    for file in source.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "manifest.json" and not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where checkpoints, report and model go.")],
    model: Annotated[str, typer.Option(help="A packaged model, or a folder.")] = "tiny.en",
    steps: Annotated[int, typer.Option(help="The optimiser's steps.")] = 4,
    batch: Annotated[int, typer.Option(help="Sentences in memory at once.")] = 4,
    accumulate: Annotated[int, typer.Option(help="Batches for each step.")] = 8,
    rate: Annotated[float, typer.Option(help="The highest step size.")] = 2e-5,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again.")] = False,
    half: Annotated[bool, typer.Option(help="bfloat16 where it is safe.")] = False,
    save: Annotated[bool, typer.Option(help="Write checkpoints and the model.")] = True,
) -> None:
    """Fine-tunes on the corpus; started again with the same folder, it goes on from the last checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    report = train(folder, model, Switches(batch, accumulate, checkpointing, half), steps, rate, save)
    print(json.dumps(report))


if __name__ == "__main__":
    app()
