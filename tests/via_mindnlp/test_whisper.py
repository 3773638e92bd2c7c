"""Whisper through MindNLP: one run in its process, and the instruments that measure it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from labsupport import whisper
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.speech import audio, features
from labsupport.via_mindnlp.whisper import TokenByToken, name_function, run_whisper
from labsupport.whisper.search import greedy
from labsupport.whisper.token_filters import make_prompt

pytestmark = [pytest.mark.mindspore, pytest.mark.slow, pytest.mark.weights]

LAYERS, LINEAR_LAYERS = 4, 8  # tiny.en's decoder; in a step: q, k, v, out, cross q, cross out, two of the MLP


@pytest.fixture(scope="module")
def run():
    return run_whisper("tiny.en", "jfk", pairs=2)


def decode_with_our_model(tokens: int) -> list[int]:
    ours = whisper.load("tiny.en", "mindspore")
    samples = audio.read(audio.clip("jfk").path)
    encoder_out = ours.model.encode(features.window(features.log_mel(samples), 0)[None])
    prompt = make_prompt(ours.tokenizer, None, timestamps=False)
    rules = replace(ours.rules, timestamps=False)
    return greedy(ours.model, encoder_out, prompt, rules, limit=tokens)[0].tokens


def test_the_tokens_are_our_models_before_and_after_mending(run):
    assert run.tokens[:2] == [843, 523]  # " And so"
    assert run.tokens == decode_with_our_model(len(run.tokens))


def test_the_pipelines_text_is_the_first_token(run):
    from labsupport.speech.text import Tokenizer

    assert run.text == Tokenizer(find_checkpoint("tiny.en").folder).decode(run.tokens[:1])


def test_every_failure_has_its_error(run):
    errors = run.failures
    assert "hann_window" in errors["the feature extractor, on mindtorch"]
    assert errors['attn_implementation="flash_attention_2"'].startswith("ImportError: FlashAttention2")
    assert errors['model.to("npu")'].startswith("RuntimeError")


def test_the_ops_of_one_step_are_those_of_the_model(run):
    assert run.ops["dense"].calls == LAYERS * LINEAR_LAYERS + 1  # and the one that gives the logits
    assert run.ops["layer_norm"].calls == 3 * LAYERS + 1
    assert {"mindspore", "mindtorch", "transformers"} <= {row.name for row in run.python.by_kind()}
    assert not any("/site-packages" in row.name or " at 0x" in row.name for row in run.python)


def test_every_step_was_timed(run):
    assert [len(times) for times in run.steps.values()] == [2, 2]
    assert min(min(times) for times in run.steps.values()) > 0
    assert 0 < run.gain.low <= run.gain.value <= run.gain.high
    assert sum(run.threads.values()) > 0


# --- its parts, without a process of their own ------------------------------------------------------------------------


def test_each_token_belongs_to_one_instrument():
    events = []

    @contextmanager
    def instrument(name):
        events.append(f"{name} opens")
        yield
        events.append(f"{name} closes")

    watched = TokenByToken([instrument("a"), instrument("b")])
    watched()
    assert watched(None, "scores") == "scores"
    assert events == ["a opens", "a closes", "b opens"]
    watched()
    watched()  # more tokens than instruments
    assert events[3:] == ["b closes"]


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
