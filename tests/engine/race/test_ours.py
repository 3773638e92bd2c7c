"""Where the time of one of our transcriptions goes, and the arithmetic that the roofline is held against."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from labsupport.checkpoints.config import SIZES
from labsupport.engine.race.ours import PARTS, encoder_flops, measure_split, transcribe_together


class Slow:
    """A model whose parts take a known time."""

    def encode(self, mel):
        time.sleep(0.02)
        return np.zeros((len(mel), mel.shape[2] // 2, 2))

    def project_cross_kv(self, encoder_out, cache):
        time.sleep(0.01)

    def prefill(self, tokens, cache, logits_to_keep=0):
        return tokens

    def decode_step(self, tokens, cache):
        time.sleep(0.001)
        return self.prefill(tokens[:, None], cache)[:, 0]  # as torch's and MindSpore's models have it


def test_each_part_is_counted_with_its_rows_and_the_model_stays_as_it_was():
    model = Slow()

    def work():
        model.project_cross_kv(model.encode(np.zeros((4, 80, 1700))), None)
        model.prefill(np.zeros((4, 3)), None, logits_to_keep=1)
        for rows in (4, 4, 1):
            model.decode_step(np.zeros(rows), None)

    split = measure_split(model, work)
    assert {part: (split[part]["calls"], split[part]["rows"]) for part in PARTS} == {
        "encode": (1, 4), "project_cross_kv": (1, 4), "prefill": (1, 4), "decode_step": (3, 9),
    }  # fmt: skip
    found = {part: (split[part]["places"], split[part]["squares"]) for part in PARTS}
    assert found["encode"] == found["project_cross_kv"] == (4 * 850, 4 * 850**2)
    assert found["decode_step"] == (9 * 850, 9 * 850**2)
    assert split["encode"]["seconds"] >= 0.02
    assert split["all"]["seconds"] >= sum(split[part]["seconds"] for part in PARTS) >= 0.033
    assert vars(model) == {}


def test_a_failure_leaves_the_model_as_it_was():
    model = Slow()
    with pytest.raises(ZeroDivisionError):
        measure_split(model, lambda: 1 / 0)
    assert vars(model) == {}


@pytest.mark.parametrize("places", [1500, 850])
def test_the_arithmetic_is_what_torch_counts(places):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import WhisperConfig, WhisperModel

    config = SIZES["tiny.en"]
    shape = config.to_hf() | {"max_source_positions": places}
    encoder = WhisperModel(WhisperConfig(**shape, attn_implementation="eager")).encoder.eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(torch.zeros(2, config.mels, 2 * places))
    assert encoder_flops(config, 2 * places, 2 * places**2) == pytest.approx(counter.get_total_flops())


@pytest.mark.weights
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_clips_side_by_side_give_what_each_gives_alone(engine, tiny):
    from labsupport import whisper
    from labsupport.speech import corpus

    transcriber = tiny.ours if engine == "torch" else whisper.load("tiny.en", engine="onnx")
    clips = [sentence.samples for sentence in corpus.load("held_out")[:3]]
    together = transcribe_together(transcriber, clips)
    assert together == [transcribe_together(transcriber, [clip])[0] for clip in clips]


@pytest.mark.slow
@pytest.mark.weights
def test_short_clips_have_hardly_more_errors_than_in_whole_windows_and_with_too_little_silence_many():
    from labsupport.engine.race import sounds
    from labsupport.engine.race.ours import load
    from labsupport.speech.text import wer

    sound = sounds.short_clips()
    transcriber = load("tiny.en", "fast", 2)

    def errors(short):
        found = transcribe_together(replace(transcriber, short_context=short), sound.clips)
        return wer(" ".join(sound.texts), " ".join(found))

    assert errors(transcriber.short_context) <= errors(0) + 0.03  # six of 202 spoken ones
    assert errors(500) > 1  # it repeats itself: this check can fail
