"""Forms of one checkpoint: made once, whole or absent, and read by the engines as transformers reads the original."""

from __future__ import annotations

import json

import pytest

from labsupport.base.errors import EngineError, NotAvailable
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.engine.race import conversions, environment
from labsupport.engine.race.conversions import find_form


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(conversions, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "race"


@pytest.fixture
def planted(cache, checkpoint, monkeypatch):
    """An export that writes one file, or fails half way; gives its calls, and the environment's versions."""
    calls, versions = [], {"openvino": "1"}

    def export(form, source, target):
        (target / "half").write_text("half")
        calls.append(form)
        if versions.get("fails"):
            raise EngineError("planted: out of room")
        (target / "whole").write_text("whole")

    class Found:
        def versions(self, *packages):
            return versions

    monkeypatch.setattr(conversions, "export", export)
    monkeypatch.setattr(conversions, "require_environment", Found)
    return calls, versions


def test_a_form_is_made_once_for_each_set_of_versions(planted, checkpoint, cache):
    calls, versions = planted
    first = find_form(checkpoint, "openvino-int8")
    assert find_form(checkpoint, "openvino-int8") == first
    assert calls == ["openvino-int8"]
    assert first.size == len("half" + "whole")
    versions["openvino"] = "2"
    assert find_form(checkpoint, "openvino-int8").folder != first.folder
    (first.folder / "whole").write_text("damaged")
    versions["openvino"] = "1"
    assert (find_form(checkpoint, "openvino-int8").folder / "whole").read_text() == "whole"
    assert len(calls) == 3


def test_a_conversion_that_fails_leaves_nothing(planted, checkpoint, cache):
    _, versions = planted
    versions["fails"] = "yes"
    with pytest.raises(EngineError, match="out of room"):
        find_form(checkpoint, "onnx")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_an_export_that_fails_quotes_the_end_of_what_it_printed(checkpoint, tmp_path, monkeypatch):
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(conversions, "require_environment", lambda: SimpleNamespace(python=sys.executable))
    with pytest.raises(EngineError, match="The export to no-form failed") as error:
        conversions.export("no-form", checkpoint.folder, tmp_path)
    assert "KeyError: 'no-form'" in error.value.what


def test_what_cannot_be_had_is_an_error(checkpoint, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "none")
    with pytest.raises(NotAvailable, match="no environment"):
        find_form(checkpoint, "sherpa")
    from dataclasses import replace

    with pytest.raises(EngineError, match="'small'"):
        find_form(replace(checkpoint, name="small"), "openai")
    assert find_form(checkpoint, None).folder == checkpoint.folder


@pytest.mark.weights
@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_openais_form_holds_the_same_weights_under_openais_names(name, cache):
    import torch

    checkpoint = find_checkpoint(name)
    content = torch.load(find_form(checkpoint, "openai").folder / "model.pt", weights_only=True)
    config = checkpoint.config
    assert content["dims"] == {
        "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": config.d_model, "n_audio_head": config.heads,
        "n_audio_layer": config.encoder_layers, "n_vocab": config.vocab_size, "n_text_ctx": 448,
        "n_text_state": config.d_model, "n_text_head": config.heads, "n_text_layer": config.decoder_layers,
    }  # fmt: skip
    q = dict(checkpoint.tensors())["model.decoder.layers.1.encoder_attn.q_proj.weight"]
    found = content["model_state_dict"]["decoder.blocks.1.cross_attn.query.weight"].float().numpy()
    assert found == pytest.approx(q, rel=1e-3, abs=1e-7)


@pytest.mark.weights
def test_ctranslate2s_form_is_the_packages_own(cache):
    import faster_whisper

    folder = find_form(find_checkpoint("tiny.en"), "ctranslate2").folder
    assert {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"} <= set(json.loads(
        (folder / "manifest.json").read_text()
    ))  # fmt: skip
    model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
    assert not model.model.is_multilingual
