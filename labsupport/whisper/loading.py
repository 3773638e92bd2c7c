"""Loads a Whisper on the engine asked for, ready to transcribe."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from labsupport.base.errors import MachineError, WhisperError
from labsupport.checkpoints.resolve import DEFAULT_MODEL, Checkpoint, find_checkpoint
from labsupport.machine.backend import FRAMEWORKS, choose_backend
from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import WhisperModel
from labsupport.whisper.token_filters import TokenRules, check_vocabulary
from labsupport.whisper.transcribe import Transcriber
from labsupport.whisper.word_timestamps import read_alignment_heads

ENGINES = (*FRAMEWORKS, "onnx")


def load(
    name: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    engine: str | None = None,
    **components,
) -> Transcriber:
    """Loads a model ready to transcribe.

    Args:
        name: a packaged model ("tiny.en", "base"), a local folder, or a hub id; by default `DEFAULT_MODEL`.
        backend: "torch" or "mindspore"; by default what `choose_backend` chooses.
        device: for example "cuda"; by default the accelerator, where there is one. MindSpore has its own context.
        attn_implementation: an attention mode by its name, as transformers calls the argument; see `optim.attention`.
        engine: "onnx" runs the graphs of `onnx_model` in ONNX Runtime, and loads no framework; else a backend.
        components: what to replace, see `torch_model.Components`: attention, conv1d, cache; for "onnx" see
            `onnx_model.load_model`: loop.

    Raises:
        CheckpointError: no such model, or it is damaged.
        MachineError: this process has begun with the other framework.
        NotAvailable: the engine is not installed, or the attention mode needs what is not here.
        WhisperError: the engine is unknown, or does not go with another argument.
    """
    if choose_engine(engine, backend) == "onnx":
        if device or attn_implementation:
            raise WhisperError("The onnx engine runs its own graphs, on the CPU: it takes no device or attention mode.")
        return load_onnx(name, **components)
    chosen = choose_backend(backend or engine)
    if "labsupport.arrays" not in sys.modules:  # whose first import settles the framework of the process
        os.environ["LAB_BACKEND"] = chosen
    from labsupport.arrays import xp

    if chosen != xp.name:
        hint = f"Start a new one (a kernel) with LAB_BACKEND={chosen} in its environment."
        raise MachineError(f"This process computes with {xp.name}, not {chosen}.", hint=hint)
    from labsupport.optim.attention import get_attention

    if attn_implementation:
        components["attention"] = get_attention(attn_implementation)
    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    return make_transcriber(checkpoint, load_model(checkpoint, device, **components), Tokenizer(checkpoint.folder))


def choose_engine(engine: str | None, backend: str | None) -> str | None:
    """The engine asked for, None if none was.

    Raises:
        WhisperError: it is unknown, or another one than the backend asked for.
    """
    if engine is not None and engine not in ENGINES:
        raise WhisperError(f"There is no engine {engine!r}.", hint=f"Choose one of: {', '.join(ENGINES)}.")
    if engine and backend and engine != backend:
        raise WhisperError(f"The engine {engine!r} and the backend {backend!r} exclude each other.", hint="Give one.")
    return engine


def load_onnx(name: str | None, **options) -> Transcriber:
    """As `load`, on ONNX Runtime; options as for `onnx_model.load_model`."""
    from labsupport.graphs.session import require_runtime
    from labsupport.whisper import onnx_model

    require_runtime()
    checkpoint = find_checkpoint(name or DEFAULT_MODEL)
    tokenizer = Tokenizer(checkpoint.folder)
    return make_transcriber(checkpoint, onnx_model.load_model(checkpoint, tokenizer, **options), tokenizer)


def make_transcriber(checkpoint: Checkpoint, model: WhisperModel, tokenizer: Tokenizer) -> Transcriber:
    check_vocabulary(tokenizer, checkpoint)
    rules = TokenRules.from_folder(checkpoint.folder, tokenizer, config=checkpoint.config)
    heads = read_alignment_heads(checkpoint.folder, checkpoint.config)
    return Transcriber(model, tokenizer, rules, checkpoint.label, heads, describe_folder(checkpoint.folder))


def describe_folder(folder: Path) -> str:
    """Its files' names, sizes and times of change: other weights in the same folder give another text."""
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return ", ".join(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found)


def load_model(checkpoint: Checkpoint, device: str | None = None, **components) -> WhisperModel:
    """The readable Whisper of this process's backend, with a checkpoint's weights; arguments as for `load`."""
    if choose_backend() == "mindspore":
        from labsupport.whisper import mindspore_model

        return mindspore_model.load_model(checkpoint, mindspore_model.Components(**components))
    import torch

    from labsupport.whisper import torch_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch_model.load_model(checkpoint, torch_model.Components(**components), device)
