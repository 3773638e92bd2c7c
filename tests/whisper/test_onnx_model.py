"""Whisper on ONNX Runtime: torch's text and logits, and no framework."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from engine_steps import TEXT, decode_beams, error, mels
from same_transcript import assert_same
from small_model import error_of_last_logits, prefill_in_pieces, start_cache
from small_whisper import SMALL

from labsupport import whisper
from labsupport.base.errors import OptimError
from labsupport.base.paths import AUDIO, ROOT
from labsupport.graphs import whisper_graphs
from labsupport.graphs.loop_interface import read_interface
from labsupport.graphs.passes import PASSES, run_all
from labsupport.speech import features
from labsupport.whisper import onnx_model, torch_model

FRAMEWORKS = ("torch", "mindspore", "transformers")


@pytest.fixture(scope="module")
def ours() -> whisper.Transcriber:
    return whisper.load("tiny.en", engine="onnx")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small model twice, torch's first, and its own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return torch_model.load_model(SMALL), onnx_model.load_model(SMALL)


# --- the same text ----------------------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"beams": 5}, {"timestamps": False}], ids=str)
def test_jfk_is_torchs_to_the_timestamp(ours, tiny, jfk, options):
    assert_same(ours.transcribe(jfk, **options), tiny.ours.transcribe(jfk, **options))


@pytest.mark.weights
@pytest.mark.slow
def test_a_long_clip_is_torchs_to_the_timestamp(ours, tiny, narration):
    assert_same(ours.transcribe(narration), tiny.ours.transcribe(narration))


@pytest.mark.weights
@pytest.mark.slow
def test_windows_decoded_together_are_torchs(ours, tiny, narration):
    part = narration[: 70 * 16_000]  # the third window ends before the others
    assert_same(ours.transcribe(part, batch=3), tiny.ours.transcribe(part, batch=3))


@pytest.mark.weights
@pytest.mark.slow
def test_a_multilingual_model_detects_the_language(base, jfk):
    transcriber = whisper.load("base", engine="onnx")
    assert_same(transcriber.transcribe(jfk), base.ours.transcribe(jfk))
    assert set(transcriber.model.sessions) == {"encoder", "language", "prefill", "loop"}


# --- the same logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[1] * 7, [4, 1, 1, 1], [2, 3, 2], [7]])
def test_decoding_in_pieces_gives_torchs_logits(small, cuts):
    theirs, model = small
    expected = theirs.prefill(TEXT, start_cache(theirs, theirs.encode(mels(2))))
    cache = start_cache(model, model.encode(mels(2)))
    assert error(prefill_in_pieces(model, cache, TEXT, cuts), expected) < 1e-5
    assert cache.length == 7


def test_the_last_logits_are_those_of_the_whole(small):
    _, model = small
    assert error_of_last_logits(model, model.encode(mels(2)), TEXT) < 1e-5


@pytest.mark.parametrize("windows", [1, 3])
def test_beams_that_change_places_and_windows_that_end(small, windows):
    theirs, model = small
    assert error(decode_beams(model, windows), decode_beams(theirs, windows)) < 1e-5


@pytest.mark.parametrize("passes", [list(PASSES)[:count] for count in range(5)] + [["eliminate_permutes"]], ids=str)
def test_any_form_of_the_loop_gives_the_same_beams(small, passes):
    theirs, model = small
    loop = run_all(whisper_graphs.decoder_step(SMALL, beams=3), passes)
    other = onnx_model.Whisper(SMALL.config, model.folder, loop)
    assert other.new_cache().interface == read_interface(loop)
    assert error(decode_beams(other, 1), decode_beams(theirs, 1)) < 1e-5


def test_a_cache_is_written_in_place(small):
    _, model = small
    cache = start_cache(model, model.encode(mels(2)))
    model.prefill(TEXT[:, :2], cache)
    before = {name: value.data_ptr() for name, value in cache.self_kv.items()}
    for column in TEXT.T[2:]:
        model.decode_step(column, cache)
        model.reorder_beams(np.array([1, 0]), cache)
    assert {name: value.data_ptr() for name, value in cache.self_kv.items()} == before


def test_too_long_a_text_and_a_wrong_batch_are_refused(small):
    _, model = small
    encoder_out, cache = model.encode(mels(2)), model.new_cache()
    with pytest.raises(OptimError, match="no window of sound"):
        model.prefill(TEXT, cache)
    model.project_cross_kv(encoder_out, cache)
    with pytest.raises(OptimError, match="25 tokens"):
        model.prefill(np.zeros((2, 25), np.int64), cache)
    model.prefill(TEXT[:, :2], cache)
    with pytest.raises(OptimError, match="other windows"):
        model.project_cross_kv(encoder_out, cache)
    with pytest.raises(OptimError, match="3 texts for a cache of 2"):
        model.decode_step(np.zeros(3, np.int64), cache)
    fixed = onnx_model.Whisper(SMALL.config, model.folder, whisper_graphs.decoder_step(SMALL, beams=5))
    cache = start_cache(fixed, encoder_out)
    fixed.prefill(TEXT[:, :2], cache)
    with pytest.raises(OptimError, match="loop graph of 5 beams"):
        fixed.decode_step(TEXT[:, 2], cache)


@pytest.mark.parametrize("length", [1, 4, 7])
def test_cross_attention_is_torchs(small, length):
    theirs, model = small
    heads = [(1, 1), (0, 0), (1, 0)]
    expected = theirs.cross_attention(TEXT[:1, :length], theirs.encode(mels(1)), heads)
    assert error(model.cross_attention(TEXT[:1, :length], model.encode(mels(1)), heads), expected) < 1e-6


def test_an_unknown_head_and_too_long_a_text_are_refused(small):
    _, model = small
    with pytest.raises(OptimError, match=r"no cross-attention head \(2, 0\)"):
        model.cross_attention(TEXT[:1], model.encode(mels(1)), [(2, 0)])
    with pytest.raises(OptimError, match="25 tokens"):
        model.cross_attention(np.zeros((1, 25), np.int64), model.encode(mels(1)), [(0, 0)])


@pytest.mark.weights
@pytest.mark.slow
def test_cross_attention_of_real_speech_is_torchs(ours, tiny, jfk):
    mel, text = features.log_mel(jfk)[None], np.array([[50257, 50362, 843, 11, 616, 5891, 3399]])
    heads = [(layer, head) for layer in range(4) for head in range(6)]
    expected = tiny.ours.model.cross_attention(text, tiny.ours.model.encode(mel), heads)
    assert error(ours.model.cross_attention(text, ours.model.encode(mel), heads), expected) < 1e-4


# --- without a framework ----------------------------------------------------------------------------------------------

FORBID = f"import sys; sys.modules.update(dict.fromkeys({FRAMEWORKS}))\n"  # importing one raises ImportError
TRANSCRIBE = """
import sys
from labsupport.cli import app
app(["transcribe", "--engine", "onnx", sys.argv[1]], standalone_mode=False)
print([name for name in ("torch", "mindspore", "transformers", "onnx") if sys.modules.get(name)])
"""


def transcribe_apart(code: str, cache) -> list[str]:
    command = [sys.executable, "-c", code, str(AUDIO / "jfk.flac")]
    environment = os.environ | {"LAB_CACHE": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.weights
@pytest.mark.slow
def test_neither_building_nor_running_needs_a_framework(tmp_path):
    first = transcribe_apart(FORBID + TRANSCRIBE, tmp_path)
    assert first[0].endswith("ask what you can do for your country.")
    assert first[-1] == "['onnx']"
    assert transcribe_apart(TRANSCRIBE, tmp_path) == [*first[:-1], "[]"]
