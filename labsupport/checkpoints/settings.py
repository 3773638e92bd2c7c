"""The settings files of a model's folder, each held against what the code reads from it before anything uses it."""

from __future__ import annotations

import collections
import json
import os
import stat
from dataclasses import fields
from pathlib import Path

from labsupport.base.errors import CheckpointError, printable
from labsupport.checkpoints.config import HF_NAMES, Config

LARGEST = 64 << 20  # bytes of a settings file; the largest true one, large-v3's tokenizer.json, has 2.5 MB
LIMITS = {  # the largest Whisper has a tenth of these: a damaged size must not cost hours or all memory
    "d_model": 16_384,
    "encoder_layers": 512,
    "decoder_layers": 512,
    "heads": 512,
    "vocab_size": 1_000_000,
    "mels": 1024,
    "audio_positions": 15_000,
    "text_positions": 8192,
}
TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "no_timestamps_token_id")
COPY_AGAIN = "Copy or download the model's folder again."


# --- files -----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict:
    """The object in a settings file; CheckpointError if it is none, damaged, or larger than any true one."""
    try:
        state = inside(path.parent, path.name).stat()
        if not stat.S_ISREG(state.st_mode):  # to open a pipe is to wait for a writer
            raise CheckpointError(f"{path.name} cannot be read: it is no file.", where=path, hint=COPY_AGAIN)
        if state.st_size > LARGEST:
            raise CheckpointError(f"{path.name} has {state.st_size:,} bytes; no settings are so long.", where=path)
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_repeats)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}.", where=path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}.", where=path, hint=COPY_AGAIN) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, no settings.", where=path)
    return content


def refuse_repeats(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object's pairs as a dict; ValueError where a name stands twice, of which readers take one or the other."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = collections.Counter(name for name, _ in pairs)
        raise ValueError(f"the name {names.most_common(1)[0][0]!r:.60} stands twice")
    return content


def inside(folder: Path, name: object) -> Path:
    """The file of this name in a model's folder; CheckpointError if it lies elsewhere, by its name or by a link.

    The hub's cache is the exception: there a snapshot's files are links into the `blobs` beside it.
    """
    path = folder / name if isinstance(name, str) else folder
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")
    if plain and path.is_symlink():
        allowed = [os.path.realpath(folder)]
        if is_snapshot(folder):
            allowed.append(os.path.realpath(folder.parents[1] / "blobs"))
        plain = os.path.dirname(os.path.realpath(path)) in allowed
    if not plain:
        what = f"The file {str(name)!r} does not lie in the model's folder; files elsewhere are never read."
        raise CheckpointError(what, where=folder, hint="Copy the file itself into the folder.")
    return path


def is_snapshot(folder: Path) -> bool:
    """Whether this is a model's snapshot in the hub's cache."""
    return folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")


# --- config.json -----------------------------------------------------------------------------------------------------


def read_config(path: Path) -> Config:
    """The shape that a Whisper's `config.json` describes; CheckpointError if it is no Whisper that can be built."""
    settings = read_json(path)
    if settings.get("model_type") != "whisper":
        kind = printable(settings.get("model_type", "nameless"))[:60]
        raise CheckpointError(f"The folder holds a {kind} model; a Whisper is expected.", where=path.parent)
    config = to_config(settings, path)
    check_tokens(settings, None, path)
    return config


def to_config(settings: dict, path: Path) -> Config:
    """The shape that these settings describe; CheckpointError, with `path`, if no Whisper of ours has it."""
    for field in fields(Config):
        check_size(settings, HF_NAMES.get(field.name, field.name), LIMITS[field.name], path)
    config = Config.from_hf(settings)
    if config.d_model % config.heads or config.d_model < 4 or config.d_model % 2:
        what = f"{config.heads} heads and an even d_model of 4 or more are needed to share it; it is {config.d_model}."
        raise CheckpointError(what, where=path)
    check_variants(settings, config, path)
    return config


def check_size(settings: dict, name: str, limit: int, path: Path) -> None:
    """CheckpointError unless `settings` have a whole number from 1 to `limit` under this name."""
    if name not in settings:
        raise CheckpointError(f"The model's settings lack {name!r}.", where=path)
    if not is_whole(settings[name], limit + 1) or settings[name] == 0:
        raise CheckpointError(f"{name} is {shorten(settings[name])}, no number from 1 to {limit:,}.", where=path)


def check_variants(settings: dict, config: Config, path: Path) -> None:
    """CheckpointError where a Whisper is another than OpenAI's in something that the code takes for granted."""
    fixed = {
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.ffn_dim,
        "decoder_ffn_dim": config.ffn_dim,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }
    for name, expected in fixed.items():
        if (found := settings.get(name, expected)) != expected or type(found) is not type(expected):
            what = f"{name} is {shorten(found)}; this lab's Whisper has {expected!r}."
            raise CheckpointError(what, where=path, hint="Such a variant runs in transformers alone.")


# --- generation_config.json ------------------------------------------------------------------------------------------


def read_generation(folder: Path, config: Config | None = None) -> dict:
    """What a folder says about generation: `generation_config.json`, without one what `config.json` says of it.

    Older folders have no generation_config.json, and transformers takes the lists of suppressed tokens from the
    other file too. Empty where both are missing. CheckpointError if an entry is not what it must be, or a token is
    none of `config`'s vocabulary.
    """
    path = next((file for file in (folder / "generation_config.json", folder / "config.json") if file.is_file()), None)
    if path is None:
        return {}
    settings = read_json(path)
    check_tokens(settings, config, path)
    check_heads(settings.get("alignment_heads"), path)
    latest = settings.get("max_initial_timestamp_index")
    if not (latest is None or is_whole(latest, 1501)):
        what = f"max_initial_timestamp_index is {shorten(latest)}, no number from 0 to 1500."
        raise CheckpointError(what, where=path)
    return settings


def check_tokens(settings: dict, config: Config | None, path: Path) -> None:
    """CheckpointError unless each list of tokens holds tokens, all of the vocabulary, and so does each single one."""
    vocabulary = config.vocab_size if config else LIMITS["vocab_size"]
    lists = {name: settings.get(name) or [] for name in ("suppress_tokens", "begin_suppress_tokens")}
    for name in ("lang_to_id", "task_to_id"):
        table = settings.get(name) or {}
        lists[name] = list(table.values()) if isinstance(table, dict) else table
        if not isinstance(table, dict):
            raise CheckpointError(f"{name} is {shorten(table)}, no table of tokens.", where=path)
    for name, tokens in lists.items():
        odd = [tokens] if not isinstance(tokens, list) else [t for t in tokens if not is_whole(t, vocabulary)]
        if odd:
            what = f"{name} holds {shorten(odd[0])}; tokens are numbers from 0 to {vocabulary - 1}."
            raise CheckpointError(what, where=path)
    for name in TOKEN_FIELDS:
        ids = settings.get(name)
        if any(not is_whole(each, vocabulary) for each in (ids if isinstance(ids, list) else [ids]) if ids is not None):
            what = f"{name} is {shorten(ids)}; tokens are numbers from 0 to {vocabulary - 1}."
            raise CheckpointError(what, where=path)


def check_heads(heads: object, path: Path) -> None:
    """CheckpointError unless these are (layer, head) pairs; which of them a model has is looked at by their reader."""
    odd = [] if heads is None else [heads] if not isinstance(heads, list) else [h for h in heads if not is_pair(h)]
    if odd:
        what = f"alignment_heads holds {shorten(odd[0])}; pairs of a layer and a head are expected."
        raise CheckpointError(what, where=path)


def is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_whole(each, 10_000) for each in value)


# --- values ----------------------------------------------------------------------------------------------------------


def is_whole(value: object, limit: int) -> bool:
    """Whether this is a whole number from 0 up to `limit`, without it; True and 1.0 are none."""
    return type(value) is int and 0 <= value < limit


def shorten(value: object) -> str:
    """A value in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
