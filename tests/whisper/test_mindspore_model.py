"""The MindSpore twin against transformers and against its torch twin, on real weights and real speech."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import pytest
from small_model import error_of_last_logits, prefill_in_pieces, start_cache

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.base.errors import CheckpointError, MachineError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import find_checkpoint, random_checkpoint
from labsupport.optim.attention import eager
from labsupport.speech import features
from labsupport.whisper import mindspore_model

pytestmark = [pytest.mark.mindspore, pytest.mark.weights, pytest.mark.slow]

REFERENCE = Path(__file__).parents[1] / "helpers" / "torch_reference.py"
TEXT = [50257, 50362, 843, 11, 616, 5891, 3399]


@pytest.fixture(scope="session")
def torchs(tmp_path_factory) -> dict[str, np.ndarray]:
    """torch's results, from a process of its own."""
    file = tmp_path_factory.mktemp("torch") / "reference.npz"
    environment = os.environ | {"LAB_BACKEND": "torch", "PYTHONPATH": str(REFERENCE.parents[2])}
    subprocess.run([sys.executable, str(REFERENCE), str(file)], env=environment, check=True)
    return dict(np.load(file))


@pytest.fixture(scope="session", params=["tiny.en", "base"])
def ours(request) -> whisper.Transcriber:
    return whisper.load(request.param, backend="mindspore")


def errors(torchs, ours, jfk) -> tuple[np.ndarray, np.ndarray]:
    """The errors of the encoder's output and of the logits, against transformers' in float64."""
    encoded = ours.model.encode(features.log_mel(jfk)[None])
    logits = ours.model.prefill(np.array([TEXT]), start_cache(ours.model, encoded))
    return (
        np.abs(encoded.asnumpy() - torchs[f"{ours.label} encoded"]),
        np.abs(logits - torchs[f"{ours.label} logits"]),
    )


def test_encoder_and_logits_equal_transformers(torchs, ours, jfk):
    """base amplifies rounding in a few frames: transformers' own float32 lies up to 1e-3 from float64 there, how far
    depends on the CPU. What is wrong by more than rounding is wrong in more than a few.
    """
    encoder, logits = errors(torchs, ours, jfk)
    assert encoder.max() < max(1e-4, 4 * float(torchs[f"{ours.label} float32 error"]))
    assert np.quantile(encoder, 0.999) < 1e-4
    assert logits.max() < 1e-4


def test_cross_attention_equals_transformers(torchs, ours):
    encoded = ms.Tensor(torchs[f"{ours.label} encoded"].astype(np.float32))
    expected = torchs[f"{ours.label} cross-attention"]  # (layers, heads, length, 1500)
    heads = list(np.ndindex(expected.shape[:2]))
    for length in (len(TEXT), 2):  # 2: so few run as a graph, which records nothing
        found = ours.model.cross_attention(np.array([TEXT[:length]]), encoded, heads)
        assert found.dtype == np.float32
        assert np.abs(found - expected[:, :, :length].reshape(found.shape)).max() < 1e-4
    short = ours.model.prefill(np.array([TEXT[:2]]), start_cache(ours.model, encoded))  # the graph still runs
    assert np.abs(short - torchs[f"{ours.label} logits"][:, :2]).max() < 1e-4


def test_a_graph_keeps_little_memory():
    """A division over the scores would keep 16 bytes a number, 1 GB for this encoder, as long as the process lives."""
    model = whisper.load("tiny.en", backend="mindspore").model
    mel, memory = np.zeros((1, 80, 3000), np.float32), psutil.Process().memory_info
    before = memory().rss
    for _ in range(2):
        model.encode(mel).asnumpy()
    assert memory().rss - before < 600e6


def test_a_wrong_epsilon_would_be_seen(torchs, jfk):
    planted = whisper.load("tiny.en", backend="mindspore")
    for layer in planted.model.encoder.layers:
        layer.final_layer_norm.layer_norm = ms.ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=1e-2)
    assert np.quantile(errors(torchs, planted, jfk)[0], 0.999) > 1e-3


def test_the_text_of_a_clip_is_torchs_to_the_timestamp(torchs, ours, jfk):
    assert find_segments(ours.transcribe(jfk)) == expected_segments(torchs, ours, "jfk")


def test_a_second_window_and_beams_give_torchs_text(torchs, jfk, narration):
    tiny = whisper.load("tiny.en", backend="mindspore")
    part = narration[: 40 * 16_000]
    assert find_segments(tiny.transcribe(part)) == expected_segments(torchs, tiny, "40 s")
    assert find_segments(tiny.transcribe(jfk, beams=2)) == expected_segments(torchs, tiny, "jfk, 2 beams")


def find_segments(transcript) -> list[list]:
    return [[s.start, s.end, s.text] for s in transcript.segments]


def expected_segments(torchs, ours, label: str) -> list[list]:
    return json.loads(str(torchs[f"{ours.label} texts"]))[label]


def test_windows_decoded_together_are_those_decoded_alone(narration):
    ours, part = whisper.load("tiny.en", backend="mindspore"), narration[: 32 * 16_000]
    together, alone = (ours.transcribe(part, timestamps=False, batch=batch) for batch in (2, 1))
    assert together.text == alone.text


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1, 1], [2, 3, 2]])
def test_decoding_in_pieces_gives_the_logits_of_the_whole(cuts, jfk):
    model = mindspore_model.load_model(find_checkpoint("tiny.en"))
    encoder_out = model.encode(features.log_mel(jfk)[None])
    whole = model.prefill(np.array([TEXT]), start_cache(model, encoder_out))
    cache = start_cache(model, encoder_out)
    assert np.abs(prefill_in_pieces(model, cache, np.array([TEXT]), cuts) - whole).max() < 1e-4
    assert cache.length == len(TEXT)


def test_the_last_logits_are_those_of_the_whole(jfk):
    model = mindspore_model.load_model(find_checkpoint("tiny.en"))
    assert error_of_last_logits(model, model.encode(features.log_mel(jfk)[None]), np.array([TEXT])) < 1e-4


def test_texts_of_all_lengths_share_a_few_graphs_and_the_padding_is_never_seen(jfk):
    model = mindspore_model.load_model(find_checkpoint("tiny.en"))
    encoder_out, text = model.encode(features.log_mel(jfk)[None]), np.array([TEXT + TEXT + TEXT[:3]])  # (1, 17)
    cache = start_cache(model, encoder_out)
    whole = prefill_in_pieces(model, cache, text, [1] * 17)  # one by one: nothing is padded
    for length, more in ((8, 1), (16, 1), (5, 0), (7, 0), (11, 0), (13, 0), (3, 1), (4, 0)):
        cache, graphs = start_cache(model, encoder_out), xp.graphs_compiled()
        assert np.abs(model.prefill(text[:, :length], cache) - whole[:, :length]).max() < 2e-4
        assert xp.graphs_compiled() == graphs + more
        assert np.abs(model.decode_step(text[:, length], cache) - whole[:, length]).max() < 2e-4
        assert cache.length == length + 1


def test_the_components_are_used():
    small = Config(d_model=64, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=200)

    def no_attention(q, k, v, mask=None, causal=False):
        return 0 * eager(q, k, v, mask, causal)

    mel, outputs = np.random.default_rng(0).normal(size=(1, 80, 3000)).astype(np.float32), []
    for attention in (eager, no_attention):
        ms.set_seed(0)
        model = mindspore_model.Whisper(small, mindspore_model.Components(attention=attention))
        for name, parameter in model.parameters_and_names():
            values = np.random.default_rng(len(name)).normal(size=parameter.shape).astype(np.float32)
            parameter.set_data(ms.Tensor(values))
        outputs.append(model.encode(mel).asnumpy())
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


def test_a_checkpoint_of_another_shape_is_refused(monkeypatch):
    checkpoint = random_checkpoint("tiny.en")
    names = [name for name, _ in checkpoint.tensors()]
    tensors = [(name, array) for name, array in checkpoint.tensors() if name != names[3]]
    monkeypatch.setattr(type(checkpoint), "tensors", lambda self: iter(tensors))
    with pytest.raises(CheckpointError, match="do not fit"):
        mindspore_model.load_model(checkpoint)


def test_a_mindspore_process_never_loads_torch_and_refuses_its_model(ours):
    assert "torch" not in sys.modules
    with pytest.raises(MachineError, match="computes with mindspore, not torch"):
        whisper.load("tiny.en", backend="torch")
