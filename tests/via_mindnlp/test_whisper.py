"""The road through MindNLP: one real trip, in its own process, looked at from all sides."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from labsupport import whisper
from labsupport.base.errors import MindnlpError, NotAvailable
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import audio, features
from labsupport.via_mindnlp import process
from labsupport.via_mindnlp.process import run_to_end, try_out
from labsupport.via_mindnlp.whisper import TokenByToken, name_function, run_whisper
from labsupport.whisper.search import greedy
from labsupport.whisper.token_filters import make_prompt

pytestmark = pytest.mark.mindspore

LAYERS, LINEAR_LAYERS = 4, 8  # tiny.en's decoder; in a step: q, k, v, out, cross q, cross out, two of the MLP


@pytest.fixture(scope="module")
def trip():
    return run_whisper("tiny.en", "jfk", pairs=2)


def write_our_own(tokens: int) -> list[int]:
    ours = whisper.load("tiny.en", "mindspore")
    samples = audio.read(audio.clip("jfk").path)
    encoded = ours.model.encode(features.window(features.log_mel(samples), 0)[None])
    prompt = make_prompt(ours.tokenizer, None, timestamps=False)
    rules = replace(ours.rules, timestamps=False)
    return greedy(ours.model, encoded, prompt, rules, limit=tokens)[0].tokens


def test_the_trip_writes_our_models_tokens_before_and_after_mending(trip):
    assert trip.tokens[:2] == [843, 523]  # " And so"
    assert trip.tokens == write_our_own(len(trip.tokens))


def test_the_pipeline_reads_its_first_token(trip):
    from labsupport.speech.text import Tokenizer

    assert trip.text == Tokenizer(find_checkpoint("tiny.en").folder).decode(trip.tokens[:1])


def test_what_fails_is_told_with_its_error(trip):
    errors = trip.failures
    assert "hann_window" in errors["the feature extractor, on mindtorch"]
    assert errors['attn_implementation="flash_attention_2"'].startswith("ImportError: FlashAttention2")
    assert errors['model.to("npu")'].startswith("RuntimeError")


def test_the_ops_of_one_step_are_those_of_the_model(trip):
    assert trip.ops["dense"].calls == LAYERS * LINEAR_LAYERS + 1  # and the one that gives the logits
    assert trip.ops["layer_norm"].calls == 3 * LAYERS + 1
    assert {"mindspore", "mindtorch", "transformers"} <= {row.name for row in trip.python.by_kind()}
    assert not any("/site-packages" in row.name or " at 0x" in row.name for row in trip.python)


def test_every_step_was_timed(trip):
    assert [len(times) for times in trip.steps.values()] == [2, 2]
    assert min(min(times) for times in trip.steps.values()) > 0
    assert 0 < trip.gain.low <= trip.gain.value <= trip.gain.high
    assert sum(trip.threads.values()) > 0


# --- its parts, without the road --------------------------------------------------------------------------------------


def test_each_token_belongs_to_one_instrument():
    diary = []

    @contextmanager
    def instrument(name):
        diary.append(f"{name} opens")
        yield
        diary.append(f"{name} closes")

    watched = TokenByToken([instrument("a"), instrument("b")])
    watched()
    assert watched(None, "scores") == "scores"
    assert diary == ["a opens", "a closes", "b opens"]
    watched()
    watched()  # more tokens than instruments
    assert diary[3:] == ["b closes"]


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        ("/x/site-packages/mindtorch/_tensor.py", "shape", ("_tensor.py: shape", "mindtorch")),
        ("/x/lib/python3.11/copy.py", "deepcopy", ("deepcopy", "Python")),
        ("~", "<built-in method mindspore._c_expression.sync>", ("mindspore._c_expression.sync", "mindspore")),
        ("~", "<method '_item' of 'TensorPy' objects>", ("_item", "mindspore")),
        ("~", "<function Tensor.asnumpy at 0x7f83f19c8cc0>", ("Tensor.asnumpy", "Python")),
    ],
)
def test_functions_are_named_without_paths_and_addresses(file, name, expected):
    assert name_function(file, name) == expected


def test_an_attempt_gives_its_error_or_none():
    assert try_out(lambda: 1) is None
    assert try_out(lambda: {}.x) == "AttributeError: 'dict' object has no attribute 'x'"


def test_a_process_that_fails_is_told_with_its_last_words(tmp_path):
    with pytest.raises(MindnlpError, match="no such road"):
        run_to_end([sys.executable, "-c", "raise SystemExit('no such road')"], str(tmp_path), 60)


def test_a_process_that_does_not_end_is_stopped(tmp_path):
    with pytest.raises(MindnlpError, match=r"0\.5 s"):
        run_to_end([sys.executable, "-c", "import time; time.sleep(60)"], str(tmp_path), 0.5)


def test_without_mindnlp_the_error_says_so(monkeypatch):
    monkeypatch.setattr(process, "is_installed", lambda package: package != "mindnlp")
    with pytest.raises(NotAvailable, match="not installed"):
        run_whisper()
