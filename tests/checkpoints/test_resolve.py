"""Weights from packages, folders and hubs: cached whole, checked, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from model_hub import SMALL, find_elsewhere, serve_hub

from labsupport.base import cached_folder
from labsupport.base.errors import CheckpointError, FolderError
from labsupport.base.paths import ROOT
from labsupport.checkpoints import random_weights, resolve
from labsupport.checkpoints.resolve import PACKAGED, Checkpoint, find_checkpoint, find_part, random_checkpoint

PINNED = PACKAGED["tiny.en"].converted_sha256


def run_python(code: str, **env: str) -> subprocess.Popen:
    """Another process that sees this checkout, with its output kept."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in checkpoint.tensors()}


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    """A cache of this file's own, to be damaged; each test leaves it healed."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cached(spare, monkeypatch) -> Path:
    monkeypatch.setenv("LAB_CACHE", str(spare))
    return find_checkpoint("tiny.en").folder


def flip_bit(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def flip_bit_silently(path: Path) -> None:
    """As a failing disk does: neither size nor time change. A new process must notice."""
    state = path.stat()
    flip_bit(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    cached_folder.recall_hash.cache_clear()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip_bit, "tokenizer.json"),
        (flip_bit_silently, "model.safetensors"),
        (cut_short, "model.safetensors"),
        (cut_short, "manifest.json"),
        (Path.unlink, "model.safetensors"),
        (Path.unlink, "manifest.json"),
    ],
)
def test_damaged_cache_is_noticed_and_healed(damage, file, cached, caplog):
    before = (cached / file).read_bytes()
    damage(cached / file)
    assert find_checkpoint("tiny.en").folder == cached
    assert "is damaged" in caplog.text
    assert (cached / file).read_bytes() == before
    assert cached_folder.hash_file(cached / "model.safetensors") == PINNED
    assert not list(cached.parent.glob("*.part"))


@pytest.mark.weights
def test_whole_cache_is_neither_converted_nor_hashed_again(cached, caplog, monkeypatch):
    monkeypatch.setattr(cached_folder, "hash_file", None)
    monkeypatch.setattr(cached_folder, "replace_folder", None)
    assert find_checkpoint("tiny.en").folder == cached
    assert not caplog.records


CONVERT = """
import logging; logging.basicConfig(level="INFO")
from labsupport.base import cached_folder
from labsupport.checkpoints.resolve import find_checkpoint
print(cached_folder.hash_file(find_checkpoint("tiny.en").folder / "model.safetensors"))
"""


@pytest.mark.slow
@pytest.mark.weights
def test_two_processes_convert_once_and_both_succeed(tmp_path):
    both = [run_python(CONVERT, LAB_CACHE=str(tmp_path)) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out.strip() for out, _ in outputs] == [PINNED, PINNED]
    assert sum(err.count("Converting tiny.en") for _, err in outputs) == 1


ANNOUNCED = """
import labsupport.checkpoints.resolve
print("begins", flush=True)
"""
HANG_HALF_WAY = """
import time
from labsupport.checkpoints import hf_settings
from labsupport.checkpoints.resolve import find_checkpoint
def hang(*_):
    print("half-way", flush=True)
    time.sleep(60)
hf_settings.write_settings = hang
find_checkpoint("tiny.en")
"""


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without warning")
def test_conversion_killed_half_way_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    victim = run_python(HANG_HALF_WAY)
    assert victim.stdout.readline() == "half-way\n", victim.stderr.read()
    victim.kill()
    victim.communicate()
    assert list(tmp_path.glob("checkpoints/*.part")), "the kill came too late to prove anything"
    folder = find_checkpoint("tiny.en").folder
    assert cached_folder.hash_file(folder / "model.safetensors") == PINNED
    assert not list(tmp_path.glob("checkpoints/*.part"))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without warning")
def test_a_conversion_killed_at_random_points_is_whole_or_made_again(tmp_path, monkeypatch, chance, kill_times):
    """Whether nothing was there before or a damaged folder; at most one unfinished folder is left."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    folder = tmp_path / "checkpoints" / "tiny.en-2"
    for seconds in kill_times(2.5):
        if chance.random() < 0.5:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists():
            flip_bit(folder / "model.safetensors")
        victim = run_python(ANNOUNCED + CONVERT)
        assert victim.stdout.readline() == "begins\n"
        time.sleep(seconds)
        victim.kill()
        told = victim.communicate()[0]
        is_whole = (folder / "model.safetensors").is_file() and hash_of(folder / "model.safetensors") == PINNED
        assert is_whole or not told
        assert is_whole or cached_folder.find_damage(folder, {"model.safetensors": PINNED})
        assert len(list(tmp_path.glob("checkpoints/*.part"))) <= 1
    assert find_checkpoint("tiny.en").folder == folder
    assert hash_of(folder / "model.safetensors") == PINNED
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny.en-2", "tiny.en-2.lock"]


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.weights
def test_package_with_another_model_is_refused_and_nothing_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    other = tmp_path / "model.bin"
    shutil.copy(find_part(*PACKAGED["tiny.en"].parts[0]), other)
    flip_bit(other)
    monkeypatch.setattr(resolve, "find_part", lambda *_: other)
    with pytest.raises(CheckpointError, match="not the pinned one"):
        find_checkpoint("tiny.en")
    assert not list(tmp_path.glob("checkpoints/tiny.en*/*"))


def test_missing_package_is_named():
    with pytest.raises(CheckpointError, match="no_such_weights"):
        find_part("no_such_weights", "model.bin")


def test_cache_that_cannot_be_made_says_where(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file where the cache should be")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "taken"))
    with pytest.raises(FolderError, match="LAB_CACHE"):
        find_checkpoint("tiny.en")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "shards"), [("float32", "1MB"), ("float16", "20KB"), ("bfloat16", "20KB")])
def test_local_folder_gives_what_transformers_saved(tmp_path, dtype, shards):
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    saved = WhisperForConditionalGeneration(WhisperConfig(**SMALL.to_hf(), **ids)).to(getattr(torch, dtype))
    saved.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "20KB")
    checkpoint = find_checkpoint(tmp_path)
    tensors = dict(checkpoint.tensors())
    expected = {k: v.float().numpy() for k, v in saved.state_dict().items() if k != "proj_out.weight"}
    assert checkpoint.config == SMALL
    assert checkpoint.label == tmp_path.name
    assert tensors.keys() == expected.keys()
    for name, array in tensors.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, expected[name]), name


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small whole checkpoint."""
    from safetensors.numpy import save_file

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper", **SMALL.to_hf()}))
    save_file(dict(random_weights.random_tensors(SMALL, 0)), tmp_path / "model.safetensors")
    return tmp_path


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps("any code could be here"))


def another_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bark"}')


def no_settings(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_settings(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "whisper"}')


def damaged_settings(folder: Path) -> None:
    cut_short(folder / "config.json")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def short_weights(folder: Path) -> None:
    cut_short(folder / "model.safetensors")


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def noise_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(1000))


def whole_numbers(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.int64)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (only_pickle, "pickled.*\n.*\n.*save_pretrained"),
        (another_model, "bark"),
        (no_settings, "config.json is missing"),
        (half_settings, "lack 'd_model'"),
        (damaged_settings, "config.json is damaged"),
        (no_weights, "no model.safetensors"),
        (lost_shard, "model-00001-of-00002.safetensors"),
        (short_weights, "damaged or cut short"),
        (empty_weights, "damaged or cut short"),
        (noise_for_weights, "damaged or cut short"),
        (whole_numbers, "I64, no float"),
    ],
)
def test_spoiled_folder_is_refused_with_its_reason(spoil, message, folder):
    assert read_shapes(find_checkpoint(folder))
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        read_shapes(find_checkpoint(folder))


@pytest.mark.parametrize("name", ["", "huge", "/no/such/folder", "./model"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(name)
    assert all(
        known in str(caught.value)
        for known in ("tiny.en or base (packaged)", "large-v3-turbo", "random_checkpoint(size)")
    )


def test_random_weights_are_marked_and_have_no_folder():
    checkpoint = random_checkpoint("tiny.en")
    assert checkpoint.label == "tiny.en (random weights)"
    with pytest.raises(CheckpointError, match="has no folder"):
        checkpoint.folder  # noqa: B018


def test_a_size_that_does_not_exist_lists_the_sizes():
    with pytest.raises(CheckpointError, match="large-v3-turbo"):
        random_checkpoint("huge")


@pytest.mark.weights
def test_weights_are_read_without_any_framework():
    code = (
        "import sys; from labsupport.checkpoints.resolve import find_checkpoint;"
        "sum(1 for _ in find_checkpoint('tiny.en').tensors());"
        "print([name for name in ('torch', 'mindspore', 'transformers') if name in sys.modules])"
    )
    out, err = run_python(code).communicate(timeout=60)
    assert out.strip() == "[]", err


# --- the hub ---------------------------------------------------------------------------------------------------------

LARGE = "openai/whisper-large-v3"


def find_closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.slow
def test_models_come_from_the_mirror_and_stay_without_it(tmp_path):
    with serve_hub() as hub:
        mirror, asked = f"http://127.0.0.1:{hub.server_port}", hub.RequestHandlerClass.asked
        found = find_elsewhere(["someone/small"], tmp_path, mirror)
        fetched, asked[:] = list(asked), []
        refused = find_elsewhere(["someone/old", "someone/none"], tmp_path, mirror)
        offline = find_elsewhere(["someone/small", LARGE], tmp_path, mirror, offline="1")
    whole = f"{len(dict(random_weights.tensor_shapes(SMALL)))} config.json model.safetensors"
    assert found["someone/small"] == offline["someone/small"] == whole
    assert any(path.endswith("model.safetensors") for path in fetched)
    assert not [path for path in fetched if path.endswith((".bin", ".md", ".fp32.safetensors"))]
    assert refused["someone/old"].startswith("CheckpointError There are only pickled weights")
    assert refused["someone/none"].startswith("CheckpointError The hub has no model 'someone/none'")
    assert all(path.startswith("/api/") for path in asked), "a file was fetched before the refusal"
    assert "HF_HUB_OFFLINE" in offline[LARGE]

    endpoint, start = f"http://127.0.0.1:{find_closed_port()}", time.monotonic()
    closed = find_elsewhere(["someone/small", LARGE], tmp_path, endpoint)
    assert time.monotonic() - start < 30  # starting Python is most of it
    assert closed["someone/small"] == whole
    for part in (
        "CheckpointError",
        endpoint,
        LARGE,
        "tiny.en",
        "local folder",
        "HF_ENDPOINT",
        "random_checkpoint(size)",
    ):
        assert part in closed[LARGE]


@pytest.mark.slow
def test_silent_hub_is_given_up(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        answers = find_elsewhere(["small"], tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5)
    assert answers["small"].startswith("CheckpointError The model hub did not give openai/whisper-small")
    assert time.monotonic() - start < 30
