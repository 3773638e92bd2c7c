"""Safetensors files and the folders that they lie in: read as the library reads them, or refused with the reason."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
import safetensors
from model_hub import SMALL
from safetensors.numpy import load_file, save_file
from small_folder import change, flip, mutate, read_header, refuses, split, write, write_folder, write_header

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints import safetensors_files
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.checkpoints.safetensors_files import INDEX, read_tensors

SEED = int(os.environ.get("LAB_FUZZ_SEED", "17"))
NAME = "model.decoder.layers.1.fc1.weight"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model")


@pytest.fixture
def weights(folder):
    return folder / "model.safetensors"


# --- one file ---------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_the_library_reads_it(weights):
    expected = load_file(weights)
    found = dict(read_tensors(weights))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(array, expected[name]) for name, array in found.items())


def entry(**fields):
    """A change of one tensor's entry in the header."""

    def spoil(header: dict) -> dict:
        changed = {name: value for name, value in (header[NAME] | fields).items() if value is not ...}
        return header | {NAME: changed}

    return spoil


HEADERS = {
    "no object": lambda header: [header],
    "no JSON": lambda header: b"{" * 1000,
    "deep": lambda header: b'{"a":' * 100_000,
    "not UTF-8": lambda header: b'{"\xff": 1}',
    "a name twice": lambda header: json.dumps(header).encode()[:-1] + b', "a": 1, "a": 2}',
    "metadata no table": lambda header: header | {"__metadata__": [1]},
    "metadata no texts": lambda header: header | {"__metadata__": {"format": 1}},
    "entry no object": lambda header: header | {NAME: 3},
    "no dtype": entry(dtype=...),
    "unknown dtype": entry(dtype="F99"),
    "dtype no text": entry(dtype=["F32"]),
    "no shape": entry(shape=...),
    "shape no list": entry(shape=16),
    "negative shape": entry(shape=[-64, -16]),
    "half a row": entry(shape=[64.5, 16]),
    "true rows": entry(shape=[True, 1024]),
    "endless shape": entry(shape=[10**30, 16]),
    "16 GB": entry(shape=[1 << 31, 2]),
    "no offsets": entry(data_offsets=...),
    "one offset": entry(data_offsets=[0]),
    "offsets backward": entry(data_offsets=[4096, 0]),
    "offsets beyond the file": entry(data_offsets=[1 << 40, (1 << 40) + 4096]),
    "offsets of another tensor": entry(data_offsets=[0, 4096]),
    "a tensor less": lambda header: {name: value for name, value in header.items() if name != NAME},
    "a field more": entry(colour="red"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(weights, kind):
    header, data = read_header(weights)
    write_header(weights, HEADERS[kind](header), data)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        dict(read_tensors(weights))


@pytest.mark.parametrize("length", [1 << 34, (1 << 64) - 1, 17 << 20, 0])
def test_a_header_longer_than_any_is_not_read(weights, length):
    content = weights.read_bytes()
    with open(weights, "r+b") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(max(len(content), 20 << 20))  # a hole: it takes no room on the disk
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        dict(read_tensors(weights))


@pytest.mark.parametrize("end", [0, 3, 8, 100, -1])
def test_a_file_cut_short_or_with_more_behind_it_is_refused(weights, end):
    content = weights.read_bytes()
    for spoiled in (content[:end], content + b"\0"):
        weights.write_bytes(spoiled)
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            dict(read_tensors(weights))


def test_files_damaged_at_random_are_refused_or_read_as_the_library_reads_them(weights):
    """Bytes and header entries; the seed is LAB_FUZZ_SEED, else 17."""
    rng, whole = random.Random(SEED), weights.read_bytes()
    header, data = read_header(weights)
    for number in range(600):
        if number % 2:
            write_header(weights, mutate(header, rng), data)
        else:
            end = len(whole) - len(data)
            weights.write_bytes(flip(whole[:end], rng) + data)
        if refuses(lambda: dict(read_tensors(weights)), CheckpointError):
            continue
        try:
            expected = load_file(weights)
        except safetensors.SafetensorError as error:
            pytest.fail(f"seed {SEED}, round {number}: the library refuses what was read: {error}")
        assert dict(read_tensors(weights)).keys() == expected.keys()


# --- a folder ---------------------------------------------------------------------------------------------------------


def resave(change_tensors):
    """Spoils the tensors themselves; the file is then whole, but another model's."""

    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(change_tensors(tensors), folder / "model.safetensors")

    return spoil


def reindex(change_table):
    """Two files, with another index."""

    def spoil(folder):
        write(folder / INDEX, {"weight_map": change_table(split(folder))})

    return spoil


def set_config(**entries):
    return lambda folder: change(folder / "config.json", **entries)


def plant_elsewhere(folder):
    """The first half of the weights outside the folder, as the index says."""
    table = split(folder)
    first = min(table.values())
    (folder / first).rename(folder.parent / first)
    write(folder / INDEX, {"weight_map": {k: f"../{v}" if v == first else v for k, v in table.items()}})


def link_elsewhere(folder):
    table = split(folder)
    first = min(table.values())
    (folder / first).rename(folder.parent / first)
    (folder / first).symlink_to(folder.parent / first)


def plant_absolute(folder):
    table = split(folder)
    write(folder / INDEX, {"weight_map": {name: str(folder / file) for name, file in table.items()}})


def repeat_a_tensor(folder):
    table = split(folder)
    second = max(table.values())
    tensors = load_file(folder / second)
    name = next(name for name, file in table.items() if file != second)
    save_file(tensors | {name: load_file(folder / table[name])[name]}, folder / second)


EMBEDDING = "model.decoder.embed_tokens.weight"
FOLDERS = {
    "a tensor missing": (resave(lambda t: {k: v for k, v in t.items() if k != NAME}), rf"1 of \d+ .* {NAME}"),
    "all missing": (resave(lambda t: {"a": t[NAME]}), "tensors are missing, model.decoder"),
    "a tensor more": (resave(lambda t: t | {"more": t[NAME]}), "1 tensors are superfluous, more"),
    "a tensor with an odd name": (resave(lambda t: t | {"\x1b[2J": t[NAME]}), r"superfluous, \\x1b"),
    "transposed": (resave(lambda t: t | {NAME: np.ascontiguousarray(t[NAME].T)}), r"\(16, 64\); by config.json"),
    "flat": (resave(lambda t: t | {NAME: t[NAME].ravel()}), r"\(1024,\); by config.json"),
    "empty": (resave(lambda t: t | {NAME: t[NAME][:0]}), r"\(0, 16\); by config.json"),
    "whole numbers": (resave(lambda t: t | {NAME: t[NAME].astype(np.int8)}), "I8, no float"),
    "doubles": (resave(lambda t: t | {NAME: t[NAME].astype(np.float64)}), "F64, no float"),
    "tied to another size": (resave(lambda t: t | {"proj_out.weight": t[NAME]}), "proj_out.weight has the shape"),
    "more layers in the config": (set_config(decoder_layers=3), r"missing, model.decoder.layers.2"),
    "fewer layers": (set_config(decoder_layers=1), "superfluous"),
    "a larger width": (set_config(d_model=32, encoder_ffn_dim=128, decoder_ffn_dim=128), "by config.json"),
    "a larger vocabulary": (set_config(vocab_size=51865), rf"{EMBEDDING} has the shape \(99, 16\)"),
    "more mels": (set_config(num_mel_bins=128), "conv1.weight has the shape"),
    "longer windows": (set_config(max_source_positions=1500), "embed_positions"),
    "longer texts": (set_config(max_target_positions=24), "embed_positions"),
    "index empty": (reindex(lambda table: {}), "names none"),
    "index no table": (reindex(lambda table: [1]), "names none"),
    "index of numbers": (reindex(lambda table: table | {NAME: 7}), "names 7, no safetensors file"),
    "index of lists": (reindex(lambda table: table | {NAME: ["a"]}), "no safetensors file"),
    "index of pickles": (reindex(lambda table: table | {NAME: "pytorch_model.bin"}), "no safetensors file"),
    "index of a lost file": (reindex(lambda table: table | {NAME: "none.safetensors"}), "is missing: none"),
    "index of a folder": (reindex(lambda table: table | {NAME: ".safetensors"}), "is missing: .safetensors"),
    "index up": (reindex(lambda table: table | {NAME: "../x.safetensors"}), "does not lie in"),
    "index with a slash": (reindex(lambda table: table | {NAME: "a/x.safetensors"}), "does not lie in"),
    "index with a backslash": (reindex(lambda table: table | {NAME: "..\\x.safetensors"}), "does not lie in"),
    "index with a zero": (reindex(lambda table: table | {NAME: "a\0.safetensors"}), "does not lie in"),
    "true file outside": (plant_elsewhere, "'../model-00001-of-00002.safetensors' does not lie in"),
    "absolute": (plant_absolute, "does not lie in"),
    "linked": (link_elsewhere, "does not lie in"),
    "index lacks a tensor": (reindex(lambda t: {k: v for k, v in t.items() if k != NAME}), f"tensor {NAME} in the"),
    "index has one more": (reindex(lambda t: t | {"more": max(t.values())}), "tensor more in the file model-00002"),
    "index mixed up": (reindex(lambda t: dict(zip(t, [*t.values()][::-1], strict=True))), "in truth it is"),
    "a tensor in both": (repeat_a_tensor, "is in two files"),
}  # fmt: skip


def test_a_folder_in_one_file_or_two_is_whole(folder):
    whole = dict(find_checkpoint(folder).tensors())
    split(folder)
    halves = dict(find_checkpoint(folder).tensors())
    assert whole.keys() == halves.keys()
    assert all(np.array_equal(whole[name], halves[name]) for name in whole)


@pytest.mark.parametrize("kind", FOLDERS)
def test_weights_that_are_not_the_configs_are_refused_before_any_is_read(folder, kind, monkeypatch):
    monkeypatch.setattr(safetensors_files, "read_tensors", None)
    spoil, message = FOLDERS[kind]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(folder)


def test_the_token_embedding_may_stand_there_twice(folder):
    resave(lambda tensors: tensors | {"proj_out.weight": tensors[EMBEDDING].copy()})(folder)
    assert find_checkpoint(folder).config == SMALL


def test_an_index_damaged_at_random_is_refused_or_as_good(folder):
    rng = random.Random(SEED)
    table = split(folder)
    for number in range(300):
        write(folder / INDEX, mutate({"metadata": {"total_size": 1}, "weight_map": table}, rng))
        if not refuses(lambda: find_checkpoint(folder), CheckpointError):
            assert len(dict(find_checkpoint(folder).tensors())) == len(table), f"seed {SEED}, round {number}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_that_is_no_number_is_refused(tmp_path, value, dtype):
    tensors = {"first": np.ones((2, 3), dtype), "second": np.ones((2, 3), dtype)}
    tensors["second"][1, 2] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="second holds what is no number"):
        dict(read_tensors(tmp_path / "model.safetensors"))
