"""The settings files beside the converted weights: transformers takes them, and they agree with its own tables."""

from __future__ import annotations

import json
import os
import random

import pytest
from small_folder import mutate, refuses, write

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.checkpoints.resolve import PACKAGED, find_checkpoint, find_part
from labsupport.checkpoints.settings import read_generation

pytestmark = pytest.mark.weights
SEED = int(os.environ.get("LAB_FUZZ_SEED", "17"))


@pytest.mark.slow
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


@pytest.mark.slow
def test_generation_settings_agree_with_transformers_tables(base, tiny):
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


@pytest.mark.slow
def test_pipeline_transcribes_with_timestamps_and_no_language(jfk):
    from transformers import pipeline

    transcribe = pipeline("automatic-speech-recognition", model=str(find_checkpoint("base").folder))
    found = transcribe({"raw": jfk[7 * 16_000 :], "sampling_rate": 16_000}, return_timestamps=True)
    assert "ask what you can do for your country" in found["text"]
    assert found["chunks"][-1]["timestamp"][1] == pytest.approx(4, abs=0.6)


# --- damaged packages -------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """The settings of a CTranslate2 folder, with a tokenizer that is small enough to be damaged many times."""
    source = find_part(*PACKAGED["tiny.en"].parts[0]).parent
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    model |= {"vocab": {text: id for text, id in model["vocab"].items() if id < 300}, "merges": model["merges"][:40]}
    write(tmp_path / "tokenizer.json", content)
    write(tmp_path / "config.json", json.loads((source / "config.json").read_text(encoding="utf-8")))
    return tmp_path


def test_a_whole_package_gives_settings(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    write_settings(package, folder, SIZES["tiny.en"])
    assert read_generation(folder, SIZES["tiny.en"])["alignment_heads"]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_package_damaged_at_random_is_converted_or_refused_and_nothing_else(package, tmp_path_factory, file):
    """The seed is LAB_FUZZ_SEED, else 17."""
    rng, refused, folder = random.Random(SEED), 0, tmp_path_factory.mktemp("settings")
    whole = json.loads((package / file).read_text())
    for number in range(60):
        spoiled = [b"", b"<html>", b"[]", b"{}"][number] if number < 4 else json.dumps(mutate(whole, rng)).encode()
        (package / file).write_bytes(spoiled)
        refused += refuses(lambda: write_settings(package, folder, SIZES["tiny.en"]), CheckpointError)
    assert refused > 10
    (package / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        write_settings(package, folder, SIZES["tiny.en"])
