"""One checkpoint in every engine's format: made once, and cached under a key of the versions that made it."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.cached_folder import cached_folder
from labsupport.base.errors import EngineError, printable
from labsupport.base.paths import ROOT, cache_dir
from labsupport.checkpoints.resolve import PACKAGED, Checkpoint, write_ctranslate2
from labsupport.engine.race.environment import require_environment
from labsupport.engine.race.ggml import FILE_TYPES, to_openai, write_model
from labsupport.machine import children

FORMAT = 1  # of what is written here; it changes with its content
MEGABYTES = 700  # that the largest takes
EXPORT = "from labsupport.engine.race.exports import main; main(*sys.argv[1:])"
OPTIMUM = ("torch", "transformers", "optimum", "optimum-onnx")
QUOTED = 6  # lines of a failed export

# Hugging Face's folder is every form's source but for these, which are made from another form.
SOURCES = {"sherpa": "openai", "sherpa-int8": "sherpa"}
EXPORTS = {  # form -> the packages of the race's environment that make it
    "onnx": OPTIMUM,
    "openvino-int8": (*OPTIMUM, "optimum-intel", "openvino", "openvino-tokenizers", "nncf"),
    "openvino-fp16": (*OPTIMUM, "optimum-intel", "openvino", "openvino-tokenizers"),
    "sherpa": ("torch", "openai-whisper"),
    "sherpa-int8": ("torch", "openai-whisper", "onnxruntime"),
}
Write = Callable[[Checkpoint, Path], None]


@dataclass(frozen=True)
class Converted:
    """A folder, and the bytes of its files but for the manifest."""

    folder: Path

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.name != "manifest.json")


def find_form(checkpoint: Checkpoint, form: str | None) -> Converted:
    """The checkpoint in this form, converted now if it was not yet; None is Hugging Face's own folder.

    Raises:
        NotAvailable: the race's environment is needed and not there.
        EngineError: the conversion failed, or the checkpoint is none of the packaged ones.
    """
    if form is None:
        return Converted(checkpoint.folder)
    if checkpoint.name not in PACKAGED:
        hint = f"Choose one of: {', '.join(PACKAGED)}."
        raise EngineError(f"The race has {checkpoint.name!r} in no other engine's format.", hint=hint)
    versions = require_environment().versions(*EXPORTS[form]) if form in EXPORTS else {}
    origin = {"format": FORMAT, "weights": PACKAGED[checkpoint.name].converted_sha256, **versions}
    key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_dir() / "race" / f"{checkpoint.name}-{form}-{key}"
    write = functools.partial(write_form, checkpoint, form)
    return Converted(cached_folder(folder, f"{checkpoint.name} as {form}", MEGABYTES, write))


def write_form(checkpoint: Checkpoint, form: str, target: Path) -> None:
    """Fills the empty folder; errors as in `find_form`."""
    own: dict[str, Write] = {"ctranslate2": lambda each, folder: write_ctranslate2(each.name, folder)}
    own |= {"openai": write_openai} | {f"ggml-{kind}": functools.partial(write_ggml, kind) for kind in FILE_TYPES}
    if form in own:
        own[form](checkpoint, target)
    else:
        export(form, find_form(checkpoint, SOURCES.get(form)).folder, target)


def write_ggml(kind: str, checkpoint: Checkpoint, target: Path) -> None:
    write_model(checkpoint, target / "model.bin", kind)


def write_openai(checkpoint: Checkpoint, target: Path) -> None:
    """openai-whisper's file: its names, float16 as the original."""
    import torch

    config = checkpoint.config
    audio = {"n_audio_ctx": config.audio_positions, "n_audio_layer": config.encoder_layers}
    text = {"n_text_ctx": config.text_positions, "n_text_layer": config.decoder_layers, "n_vocab": config.vocab_size}
    widths = {f"n_{part}_{name}": n for part in ("audio", "text")
              for name, n in (("state", config.d_model), ("head", config.heads))}  # fmt: skip
    weights = {
        to_openai(name): torch.from_numpy(tensor).half()
        for name, tensor in checkpoint.tensors() if name != "proj_out.weight"
    }  # fmt: skip
    content = {"dims": {"n_mels": config.mels, **audio, **text, **widths}, "model_state_dict": weights}
    torch.save(content, target / "model.pt")


def export(form: str, source: Path, target: Path) -> None:
    """By the engine's own tools, in a process of the race's environment.

    Raises:
        EngineError: it failed; the end of what it printed is quoted.
    """
    given = source / "model.pt" if form == "sherpa" else source
    command = children.python_code(EXPORT, form, str(given), str(target), python=str(require_environment().python))
    done = subprocess.run(
        children.guarded(command), cwd=ROOT, env=offline(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if done.returncode or not any(target.iterdir()):
        lines = [printable(line) for line in done.stdout.splitlines() if line.strip()][-QUOTED:]
        raise EngineError("\n  | ".join([f"The export to {form} failed.", *lines]), where=given)


def offline() -> dict[str, str]:
    """Variables of a process that finds all that it needs on this machine, and asks no hub."""
    return children.environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
