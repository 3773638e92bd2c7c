"""The checkpoints of a fine-tuning: whole or not there, and resumed with the same weights and numbers alone.

A checkpoint is written beside the others, with a manifest of its files' hashes, and renamed into FOLDER/steps when all
of it is on the disk. What a kill leaves of one is never taken for a checkpoint. Its training.json says from which
weights and with which numbers it was trained; with others it is not resumed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.base import paths
from labsupport.base.cached_folder import find_damage, hash_file
from labsupport.base.errors import CheckpointError, FolderError, WhisperError
from labsupport.base.records import from_fields, read_json
from labsupport.checkpoints.resolve import Checkpoint, open_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

CHECKPOINTS_KEPT = 2
# What the trainer resumes from; without the optimiser's file it would begin that anew, and say nothing.
NEEDED = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
TRAINING = "training.json"
ANOTHER_FOLDER = "Take another folder, or remove this one's `steps`."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What decides the numbers of a training: weights, by their hash, and options. Checkpointing changes none."""

    weights: str
    lr: float
    batch: int
    accumulate: int
    bf16: bool
    steps: int


def load_finished(last: Path) -> PreTrainedModel:
    """The model of a checkpoint after which nothing is left to train."""
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(last, use_safetensors=True, local_files_only=True)


def read_history(last: Path) -> list[dict]:
    """What the trainer noted at each step; CheckpointError where another version of transformers did it otherwise."""
    from transformers import TrainerState

    path = last / "trainer_state.json"
    try:
        state = TrainerState.load_from_json(str(path))
        if state.global_step != step_of(last) or not all(isinstance(entry, dict) for entry in state.log_history):
            raise ValueError("its steps are not those of the folder")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        what = f"The checkpoint's state is of another version of transformers: {error}."
        raise CheckpointError(what, where=path, hint=ANOTHER_FOLDER) from error
    return state.log_history


def unfinished(folder: Path) -> Path:
    """Where the trainer writes what is not yet whole."""
    return folder / "steps" / ".unfinished"


@contextlib.contextmanager
def reserve(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, without what a killed one has left half-done.

    Raises:
        FolderError: it cannot be written to, or its disk is full.
        WhisperError: another process has it.
    """
    import filelock
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock", timeout=0):
            remove(unfinished(folder))
            bring_back(folder / "model")
            yield
    except filelock.Timeout as error:
        what = "Another process is training in this folder."
        raise WhisperError(what, where=folder, hint="Wait until it is done, or take another folder.") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise  # what torch.save raises where the disk is full has no class of its own
        hint = "The earlier checkpoints are whole: make room, or the folder writable, and start the same command again."
        raise FolderError(f"The training cannot be stored: {error}.", where=folder, hint=hint) from error


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


def list_checkpoints(steps: Path) -> list[Path]:
    """The folders of all checkpoints, whole or not, the newest first."""
    found = [path for path in steps.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{1,9}", path.name)]
    return sorted(found, key=step_of, reverse=True)


def find_last(steps: Path, checkpoint: Checkpoint) -> Path | None:
    """The newest checkpoint that is whole; a warning names those that are left out.

    CheckpointError: it is of a model of another shape.
    """
    for path in list_checkpoints(steps):
        if damage := find_lack(path):
            log.warning("%s is not whole (%s): it is left out.", path.name, damage)
            continue
        if open_folder(path.name, path).config != checkpoint.config:
            what = f"The checkpoints in this folder are of another model than {checkpoint.label}."
            raise CheckpointError(what, where=path, hint=ANOTHER_FOLDER)
        return path
    return None


def refuse_others(last: Path, asked: Training) -> None:
    """A word where another number of steps was planned, or an older version of the lab noted nothing.

    Raises:
        CheckpointError: the checkpoint is from other weights, or was trained with other options.
    """
    try:
        planned = from_fields(Training, read_json(last / TRAINING))
    except FileNotFoundError:
        log.warning("%s does not say from which weights and options it comes: an older lab wrote it.", last.name)
        return
    except ValueError as error:
        what = f"The checkpoints are of another version of the lab: {error}."
        raise CheckpointError(what, where=last / TRAINING, hint=ANOTHER_FOLDER) from error
    if differing := list_differences(planned, asked):
        what = f"The checkpoints in this folder were trained with {'; '.join(differing)}."
        raise CheckpointError(what, where=last, hint=ANOTHER_FOLDER)
    if planned.steps != asked.steps:
        log.warning("Until %s the learning rate fell as for %d steps, not %d.", last.name, planned.steps, asked.steps)


def list_differences(planned: Training, asked: Training) -> list[str]:
    """What a training may not go on with; other steps it may."""
    then, now = asdict(planned), asdict(asked)
    weights = ["other weights"] if planned.weights != asked.weights else []
    options = [name for name in ("lr", "batch", "accumulate", "bf16") if then[name] != now[name]]
    return weights + [f"{name} {then[name]}, not {now[name]}" for name in options]


def find_lack(checkpoint: Path) -> str | None:
    """What a checkpoint lacks to be resumed from, or None: all that is needed, with the hashes of its manifest."""
    absent = [name for name in NEEDED if not (checkpoint / name).is_file()]
    return f"{absent[0]} is missing" if absent else find_damage(checkpoint)


def finish_saves(folder: Path, asked: Training) -> TrainerCallback:
    """For the trainer: notes in each checkpoint that it has written what was asked for, seals it, puts it in its place,
    and removes the older ones.
    """
    from transformers import TrainerCallback

    class FinishSaves(TrainerCallback):
        def on_save(self, args, state, control, **_):
            name = f"checkpoint-{state.global_step}"
            (unfinished(folder) / name / TRAINING).write_text(json.dumps(asdict(asked)), encoding="utf-8")
            put_in_place(unfinished(folder) / name, folder / "steps" / name)
            remove_others(folder / "steps", state.global_step)

    return FinishSaves()


def remove_others(steps: Path, newest: int) -> None:
    """Leaves the newest checkpoints up to this step. Those of later steps were damaged: the training began before them,
    and if they counted, the whole ones would be removed in their stead.
    """
    found = list_checkpoints(steps)
    kept = [path for path in found if step_of(path) <= newest][:CHECKPOINTS_KEPT]
    for path in found:
        if path not in kept:
            remove(path)


def remove(path: Path) -> None:
    """Removes a folder, or the file or link that has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(part: Path, target: Path) -> None:
    """Seals a folder and renames it to `target`. A folder that has this name stays until then, and comes back after a
    kill in between: see `bring_back`.
    """
    seal(part)
    remove(set_aside(target))
    if os.path.lexists(target):
        target.rename(set_aside(target))
    part.rename(target)
    paths.sync(target.parent)
    remove(set_aside(target))


def set_aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def bring_back(target: Path) -> None:
    """Undoes a `put_in_place` that was killed between its two renames."""
    if os.path.lexists(set_aside(target)) and not os.path.lexists(target):
        set_aside(target).rename(target)


def seal(folder: Path) -> None:
    """Writes manifest.json with every file's hash, and waits until all of the folder is on the disk."""
    manifest = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        paths.sync(path)


def save_model(model: PreTrainedModel, folder: Path, source: Path) -> None:
    """Writes weights and configuration, and beside them the source's tokenizer and settings, for `whisper.load`."""
    part = folder.with_name(f".{folder.name}.part")
    remove(part)
    model.save_pretrained(part)
    for file in source.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "manifest.json" and not (part / file.name).exists():
            (part / file.name).write_bytes(file.read_bytes())
    put_in_place(part, folder)
