"""The settings files beside the converted weights: transformers takes them, and they agree with its own tables."""

from __future__ import annotations

import pytest

from labsupport.checkpoints.resolve import find_checkpoint

pytestmark = pytest.mark.weights


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
