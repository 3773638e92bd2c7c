"""Settings files: what is refused, each with its file; and that no damage, however random, passes as another error."""

from __future__ import annotations

import json
import os
import random

import pytest
from model_hub import SMALL
from small_folder import change, mutate, refuses, write, write_folder

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints import settings
from labsupport.checkpoints.settings import read_config, read_generation, read_json

SEED = int(os.environ.get("LAB_FUZZ_SEED", "17"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b'{"a": 1', "damaged"),
        (b"<!DOCTYPE html><html>", "damaged"),
        (b"\xff\xfe{}", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"a": ' * 100_000, "damaged"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "damaged|cut"),
        (b"[]", "holds a list"),
        (b"null", "holds a NoneType"),
        (b'"text"', "holds a str"),
    ],
)
def test_what_is_no_object_of_json_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "config.json")


def test_a_file_longer_than_any_settings_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(settings.LARGEST + 1)  # a hole: it takes no room on the disk
    with pytest.raises(CheckpointError, match="no settings are so long"):
        read_json(tmp_path / "config.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="cannot be read: it is no file"):
        read_json(tmp_path / "config.json")


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"d_model": 16, "heads": 2, "d_model": 32}')
    with pytest.raises(CheckpointError, match="'d_model' stands twice"):
        read_json(tmp_path / "config.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    for name in ("config.json", "none.json"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            read_json(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "..\\a", "C:a", "a\0b", None, 7, ["a"]])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="does not lie in the model's folder"):
        settings.inside(tmp_path, name)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_out_of_the_folder_is_refused_one_inside_it_and_the_hubs_are_not(folder, tmp_path):
    write(tmp_path / "elsewhere.json", {})
    (folder / "out.json").symlink_to(tmp_path / "elsewhere.json")
    (folder / "in.json").symlink_to("config.json")
    (folder / "loop.json").symlink_to("loop.json")
    assert settings.inside(folder, "in.json").is_file()
    with pytest.raises(CheckpointError, match=r"'out\.json' does not lie in"):
        read_json(folder / "out.json")
    with pytest.raises(CheckpointError):
        read_json(folder / "loop.json")
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write(blobs / "cafe", {"whole": 1})
    (snapshot / "config.json").symlink_to("../../blobs/cafe")
    (snapshot / "out.json").symlink_to("../../../elsewhere.json")
    assert read_json(snapshot / "config.json") == {"whole": 1}
    with pytest.raises(CheckpointError, match=r"'out\.json' does not lie in"):
        read_json(snapshot / "out.json")


# --- config.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"d_model": ...}, "lack 'd_model'"),
        ({"d_model": "16"}, "d_model is '16', no number from 1"),
        ({"d_model": 16.0}, "d_model is 16.0"),
        ({"d_model": True}, "d_model is True"),
        ({"d_model": None}, "d_model is None"),
        ({"d_model": 0}, "d_model is 0"),
        ({"d_model": -16}, "d_model is -16"),
        ({"d_model": 10**30}, "d_model is 1000"),
        ({"d_model": [16]}, r"d_model is \[16\]"),
        ({"d_model": 17}, "2 heads"),
        ({"d_model": 2}, "2 heads"),
        ({"encoder_layers": 10**9}, "encoder_layers is 1000000000"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_mel_bins": {}}, "num_mel_bins is"),
        ({"encoder_attention_heads": 3}, "3 heads"),
        ({"decoder_attention_heads": 1}, "decoder_attention_heads is 1; this lab's Whisper has 2"),
        ({"encoder_ffn_dim": 32}, "encoder_ffn_dim is 32"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"scale_embedding": True}, "scale_embedding is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"model_type": ["whisper"]}, "a Whisper is expected"),
        ({"model_type": "\x1b[31m"}, r"\\x1b"),
        ({"model_type": ...}, "nameless"),
        ({"eos_token_id": "end"}, "eos_token_id is 'end'"),
    ],
)
def test_a_config_that_no_whisper_can_have_is_refused(folder, entries, message):
    assert read_config(folder / "config.json") == SMALL
    change(folder / "config.json", **entries)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder / "config.json")


# --- generation_config.json -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"suppress_tokens": 7}, "suppress_tokens holds 7"),
        ({"suppress_tokens": ["a"]}, "suppress_tokens holds 'a'"),
        ({"suppress_tokens": [1, [2]]}, r"suppress_tokens holds \[2\]"),
        ({"suppress_tokens": {"a": 1}}, "suppress_tokens holds"),
        ({"begin_suppress_tokens": [-1]}, "begin_suppress_tokens holds -1; tokens are numbers from 0 to 98"),
        ({"begin_suppress_tokens": [99]}, "holds 99"),
        ({"lang_to_id": []}, None),
        ({"lang_to_id": [1]}, "lang_to_id is"),
        ({"lang_to_id": {"<|en|>": "50259"}}, "lang_to_id holds '50259'"),
        ({"alignment_heads": 1}, "alignment_heads holds 1"),
        ({"alignment_heads": [1]}, "alignment_heads holds 1"),
        ({"alignment_heads": [[1]]}, r"alignment_heads holds \[1\]"),
        ({"alignment_heads": [["0", 1]]}, "alignment_heads holds"),
        ({"alignment_heads": [[0, 1, 2]]}, "alignment_heads holds"),
        ({"alignment_heads": [[0, -1]]}, "alignment_heads holds"),
        ({"alignment_heads": None}, None),
        ({"max_initial_timestamp_index": None}, None),
        ({"max_initial_timestamp_index": "50"}, "max_initial_timestamp_index is '50'"),
        ({"max_initial_timestamp_index": -1}, "max_initial_timestamp_index is -1"),
        ({"eos_token_id": [1, 2]}, None),
        ({"eos_token_id": [1, 200]}, "eos_token_id is"),
    ],
)
def test_settings_of_generation_are_held_against_what_is_read_from_them(folder, entries, message):
    change(folder / "generation_config.json", **entries)
    if message is None:
        assert read_generation(folder, SMALL)
        return
    with pytest.raises(CheckpointError, match=message):
        read_generation(folder, SMALL)


def test_without_their_file_they_are_those_of_the_config(folder):
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", suppress_tokens=[5])
    assert read_generation(folder, SMALL)["suppress_tokens"] == [5]
    (folder / "config.json").unlink()
    assert read_generation(folder) == {}


# --- at random --------------------------------------------------------------------------------------------------------


def test_settings_damaged_at_random_are_read_or_refused_and_nothing_else(folder):
    """The seed is LAB_FUZZ_SEED, else 17."""
    rng, refused = random.Random(SEED), 0
    files = {name: json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json")}
    files["generation_config.json"] |= {"lang_to_id": {"a": 1}, "eos_token_id": 3, "max_initial_timestamp_index": 50}
    for _ in range(600):
        for name, content in files.items():
            write(folder / name, mutate(content, rng))
        refused += refuses(lambda: read_config(folder / "config.json"), CheckpointError)
        refused += refuses(lambda: read_generation(folder, SMALL), CheckpointError)
    assert refused > 200
