"""Weights from packages and folders: converted right, checked, healed, refused with a reason."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labsupport.base import cached_folder
from labsupport.base.errors import CheckpointError, FolderError
from labsupport.base.paths import ROOT
from labsupport.checkpoints import ctranslate2_reader, random_weights, resolve
from labsupport.checkpoints.config import SIZES, Config
from labsupport.checkpoints.resolve import (
    PACKAGED,
    Checkpoint,
    find_checkpoint,
    find_part,
    random_checkpoint,
    read_parts,
)

SMALL = Config(d_model=16, encoder_layers=1, decoder_layers=2, heads=2, vocab_size=99, audio_positions=30)
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


def build_on_meta(config: Config, **settings):
    """transformers' model of this shape, without memory."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.device("meta"):
        return WhisperForConditionalGeneration(WhisperConfig(**config.to_hf(), **settings))


# --- what the packages hold, against readers that are not ours -------------------------------------------------------


@pytest.fixture(params=["tiny.en", "base"])
def original(request, tmp_path):
    """The package's own files, as a folder for the CTranslate2 library."""
    parts = [find_part(*part) for part in PACKAGED[request.param].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        shutil.copy(file, tmp_path)
    (tmp_path / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return request.param, tmp_path


def test_converted_weights_say_what_the_originals_say(original, request, jfk):
    import ctranslate2 as library
    import torch

    name, folder = original
    pair = request.getfixturevalue(name.partition(".")[0])
    features = pair.processor(jfk, sampling_rate=16_000, return_tensors="pt").input_features
    model = library.models.Whisper(str(folder), compute_type="float32", intra_threads=2)
    seen = library.StorageView.from_array(features.numpy())
    prompt = [50257, 50362] if name == "tiny.en" else [50258, 50259, 50359, 50363]
    with torch.inference_mode():
        frames = pair.theirs.model.encoder(features).last_hidden_state.numpy()
        tokens = pair.theirs.generate(features)[0].tolist()
    apart = np.abs(np.array(model.encode(seen, to_cpu=True)) - frames)
    assert np.quantile(apart, 0.999) < 3e-4
    assert apart.max() < 5e-3  # base amplifies rounding in a few frames, as much as the CPU has it
    said = model.generate(seen, [prompt], beam_size=1, suppress_tokens=[-1])[0].sequences_ids[0]
    assert len(said) > 20
    assert tokens == said


def test_every_converted_number_is_the_packages_own():
    """The bytes of model.bin, found again by search instead of by our reader."""
    buffer = read_parts("tiny.en", PACKAGED["tiny.en"])
    for name, array in find_checkpoint("tiny.en").tensors():
        half = array.astype(np.float16)
        assert np.array_equal(half, array), name  # nothing was rounded on the way
        assert half.tobytes() in buffer, name


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_converted_names_and_shapes_are_those_of_transformers(name):
    checkpoint = find_checkpoint(name)
    assert checkpoint.config == SIZES[name]
    assert read_shapes(checkpoint) == dict(random_weights.tensor_shapes(SIZES[name]))


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_transformers_loads_the_folder_without_complaint(name, caplog, recwarn):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor
    from transformers.utils import logging

    folder = find_checkpoint(name).folder
    logging.enable_propagation()
    model, report = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    processor = WhisperProcessor.from_pretrained(folder)
    logging.disable_propagation()
    assert not any(report.values()), report
    assert not caplog.messages
    assert not [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)]
    assert len(processor.tokenizer) == model.config.vocab_size
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


def test_generation_settings_agree_with_what_transformers_knows_of_whisper(base, tiny):
    from transformers.models.whisper import configuration_whisper as tables
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    many, english = base.theirs.generation_config, tiny.theirs.generation_config
    assert set(tables.NON_SPEECH_TOKENS_MULTI) <= set(many.suppress_tokens)
    assert set(tables.NON_SPEECH_TOKENS) <= set(english.suppress_tokens)
    assert {code.strip("<|>") for code in many.lang_to_id} == set(LANGUAGES) - {"yue"}  # Cantonese came with large-v3
    assert [many.lang_to_id["<|en|>"], many.lang_to_id["<|su|>"]] == [50259, 50357]
    assert many.task_to_id == {"transcribe": 50359, "translate": 50358}
    starts = [(s.decoder_start_token_id, s.eos_token_id, s.no_timestamps_token_id) for s in (many, english)]
    assert starts == [(50258, 50257, 50363), (50257, 50256, 50362)]
    assert base.processor.tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]) == [50364, 51864]
    assert tiny.processor.tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]) == [50363, 51863]


def test_pipeline_transcribes_with_timestamps_and_no_language(jfk):
    from transformers import pipeline

    listen = pipeline("automatic-speech-recognition", model=str(find_checkpoint("base").folder))
    heard = listen({"raw": jfk, "sampling_rate": 16_000}, return_timestamps=True)
    assert "ask what you can do for your country" in heard["text"]
    assert heard["chunks"][-1]["timestamp"][1] == pytest.approx(11, abs=0.5)


def test_model_file_cut_anywhere_or_of_another_kind_is_refused():
    package = PACKAGED["tiny.en"]
    buffer = read_parts("tiny.en", package)
    for length in (0, 3, 20, 1000, len(buffer) // 2):
        with pytest.raises(CheckpointError):
            ctranslate2_reader.read_tensors(buffer[:length])
    with pytest.raises(CheckpointError, match="expected"):
        ctranslate2_reader.read_tensors(b"\x07" + buffer[1:100])


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


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_bit, flip_bit_silently, cut_short, Path.unlink])
def test_damaged_cache_is_noticed_and_healed(damage, file, cached, caplog):
    before = (cached / file).read_bytes()
    damage(cached / file)
    assert find_checkpoint("tiny.en").folder == cached
    assert "is damaged" in caplog.text
    assert (cached / file).read_bytes() == before
    assert cached_folder.hash_file(cached / "model.safetensors") == PINNED
    assert not list(cached.parent.glob("*.part"))


def test_sound_cache_is_neither_converted_nor_hashed_again(cached, caplog, monkeypatch):
    monkeypatch.setattr(cached_folder, "hash_file", None)
    monkeypatch.setattr(cached_folder, "replace_folder", None)
    assert find_checkpoint("tiny.en").folder == cached
    assert not caplog.records


CONVERT = """
import logging; logging.basicConfig(level="INFO")
from labsupport.base import cached_folder
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import PACKAGED
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import find_part
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import random_checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import read_parts
print(cached_folder.hash_file(find_checkpoint("tiny.en").folder / "model.safetensors"))
"""


def test_two_processes_convert_once_and_both_succeed(tmp_path):
    both = [run_python(CONVERT, LAB_CACHE=str(tmp_path)) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [out.strip() for out, _ in outputs] == [PINNED, PINNED]
    assert sum(err.count("Converting tiny.en") for _, err in outputs) == 1


HANG_HALF_WAY = """
import time
from labsupport.checkpoints import hf_settings
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import PACKAGED
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import find_part
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import random_checkpoint
from labsupport.checkpoints import resolve
from labsupport.checkpoints.resolve import read_parts
def hang(*_):
    print("half-way", flush=True)
    time.sleep(60)
hf_settings.write_settings = hang
find_checkpoint("tiny.en")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill without warning")
def test_conversion_killed_half_way_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    victim = run_python(HANG_HALF_WAY)
    assert victim.stdout.readline() == "half-way\n", victim.stderr.read()
    victim.kill()
    victim.communicate()
    assert list(tmp_path.glob("checkpoints/*.part")), "the kill came too late to prove anything"
    folder = find_checkpoint("tiny.en").folder
    assert cached_folder.hash_file(folder / "model.safetensors") == PINNED
    assert not list(tmp_path.glob("checkpoints/*.part"))


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
    """A small sound checkpoint."""
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


@pytest.mark.parametrize("name", ["", "huge", "/no/such/folder", "./model", "a/b/c"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(name)
    assert all(known in str(caught.value) for known in ("tiny.en or base (packaged)", "large-v3-turbo", "shape(size)"))


# --- true shapes, random weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_shape_has_every_tensor_and_parameter_of_the_real_architecture(size):
    theirs = build_on_meta(SIZES[size])
    expected = {name: tuple(t.shape) for name, t in theirs.state_dict().items() if name != "proj_out.weight"}
    shapes = dict(random_weights.tensor_shapes(SIZES[size]))
    assert shapes == expected
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == sum(p.numel() for p in theirs.parameters())


def test_random_weights_follow_seed_and_name_and_are_marked():
    checkpoint = random_checkpoint("tiny.en")
    assert (checkpoint.random, checkpoint.folder, checkpoint.label) == (True, None, "tiny.en (random weights)")
    one, same, other = (dict(random_weights.random_tensors(SMALL, seed)) for seed in (0, 0, 1))
    name = "model.decoder.layers.1.fc1.weight"
    assert np.array_equal(one[name], same[name])
    assert not np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], one[name.replace("layers.1", "layers.0")])
    assert one["model.decoder.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert all(array.dtype == np.float32 for array in one.values())


def test_random_encoder_keeps_whispers_own_positions():
    positions = random_weights.sinusoids(1500, 384)
    real = dict(find_checkpoint("tiny.en").tensors())["model.encoder.embed_positions.weight"]
    assert np.abs(positions - real).max() < 1e-3  # the package keeps them in half precision


def test_shape_of_no_size_lists_the_sizes():
    with pytest.raises(CheckpointError, match="large-v3-turbo"):
        random_checkpoint("huge")


def test_weights_are_read_without_any_framework():
    code = (
        "import sys; from labsupport import checkpoints; sum(1 for _ in find_checkpoint('tiny.en').tensors());"
        "print([name for name in ('torch', 'mindspore', 'transformers') if name in sys.modules])"
    )
    out, err = run_python(code).communicate(timeout=60)
    assert out.strip() == "[]", err
