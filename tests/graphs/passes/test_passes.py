"""Article B's graph rewrites on whole decode steps, small ones and the real one: equal numbers in every order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from small_graphs import product
from small_steps import RandomCheckpoint, assert_same, make_inputs, run_steps

from labsupport.base.errors import GraphError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint, find_checkpoint
from labsupport.graphs import analysis, passes, whisper_graphs
from labsupport.graphs.loop import project_cross_kv
from labsupport.speech import features

ORDERS = list(itertools.permutations(passes.PASSES))
TOKENS = [7, 13, 411, 58, 499]


# --- the small step ---------------------------------------------------------------------------------------------------


@st.composite
def small_steps(draw):
    """A decode step of random shape and weights, and inputs for it."""
    heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    config = Config(heads * draw(st.sampled_from([4, 8])), 1, layers, heads, 11, audio_positions=6, text_positions=9)
    seed, beams = draw(st.integers(0, 99)), draw(st.integers(1, 3))
    model = whisper_graphs.decoder_step(RandomCheckpoint(config, seed), beams)
    return model, make_inputs(config, beams, draw(st.integers(0, 5)), seed)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(small_steps(), st.sampled_from(ORDERS), st.integers(0, 4))
def test_any_passes_in_any_order_leave_a_small_step_as_it_was(step, order, count):
    model, (cross_kv, past) = step
    expected = run_steps(model, cross_kv, past, [1, 2, 3])
    before = model.SerializeToString()
    rewritten = passes.run_all(model, order[:count])
    analysis.shapes_of(rewritten)
    assert_same(run_steps(rewritten, cross_kv, past, [1, 2, 3]), expected, 1e-4)
    assert model.SerializeToString() == before


def test_each_pass_does_its_work_and_no_other(small):
    model = small[0]
    tiles, permutes = 4, 16
    counts = {name: analysis.op_counts(passes.run_all(model, [name])) for name in passes.PASSES}
    assert counts["tile_to_broadcast"]["Tile"] == 0
    assert counts["cache_to_static"]["Slice"] == 4
    assert counts["eliminate_permutes"]["Transpose"] == 0
    assert counts["fuse_slice_concat"] == analysis.op_counts(model)
    for name in ("cache_to_static", "eliminate_permutes"):
        assert counts[name]["Tile"] == tiles
    for name in ("tile_to_broadcast", "cache_to_static"):
        assert counts[name]["Transpose"] == permutes
    last = analysis.op_counts(passes.run_all(model))
    assert (last["Tile"], last["Transpose"], last["Slice"], last["ScatterND"]) == (0, 0, 0, 4)


def test_a_second_time_every_pass_finds_nothing(small):
    rewritten = passes.run_all(small[0])
    for name, rewrite in passes.PASSES.items():
        assert rewrite(rewritten).SerializeToString() == rewritten.SerializeToString(), name


def run_orders(model: onnx.ModelProto) -> dict[tuple[str, ...], onnx.ModelProto]:
    """Every order of the passes -> the graph at its end. A pass runs once on each different graph."""
    results: dict[tuple[bytes, str], onnx.ModelProto] = {}
    ends = {}
    for order in ORDERS:
        rewritten = model
        for name in order:
            key = rewritten.SerializeToString(deterministic=True), name
            if key not in results:
                results[key] = passes.run_all(rewritten, [name])
            rewritten = results[key]
        ends[order] = rewritten
    return ends


def check_orders(ends, cross_kv, past, tokens, expected) -> None:
    """Equal logits and caches in every order; the fusion needs the static cache before it, nothing else an order."""
    different = {end.SerializeToString(deterministic=True): end for end in ends.values()}
    for end in different.values():
        assert_same(run_steps(end, cross_kv, past, tokens), expected, 1e-4)
    for order, end in ends.items():
        counts = analysis.op_counts(end)
        fused = order.index("cache_to_static") < order.index("fuse_slice_concat")
        caches = len(past)
        assert (counts["Slice"], counts["ScatterND"]) == ((0, caches) if fused else (caches, 0)), order
        assert (counts["Tile"], counts["Transpose"]) == (0, 0), order


def test_every_order_of_the_passes_leaves_a_small_step_as_it_was(small):
    model, cross_kv, past, expected = small
    check_orders(run_orders(model), cross_kv, past, [1, 2], expected)


def test_an_unknown_pass_is_refused():
    with pytest.raises(GraphError, match="no pass 'make_it_fast'"):
        passes.run_all(product(), ["make_it_fast"])


# --- wrong rewrites are caught --------------------------------------------------------------------------------------


def with_constant(model, name, change) -> onnx.ModelProto:
    """A copy in which one constant is another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return copy


def with_node(model, op, change) -> onnx.ModelProto:
    """A copy in which the first node of this op is changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(next(node for node in copy.graph.node if node.op_type == op))
    return copy


def swap_operands(node):
    node.input[0], node.input[1] = node.input[1], node.input[0]


STATIC = ["cache_to_static"]
FAULTS = {
    "the mask shows an empty row": (STATIC, lambda m: with_constant(m, "cache_last_row", lambda x: x - 1)),
    "the mask hides the oldest token": (STATIC, lambda m: with_constant(m, "cache_last_row", lambda x: x + 1)),
    "the mask hides nothing": (STATIC, lambda m: with_constant(m, "row_hidden", np.zeros_like)),
    "the newest row stands first": (STATIC, lambda m: with_node(m, "Concat", swap_operands)),
    "the mask is the other form's": (
        [*STATIC, "fuse_slice_concat"],
        lambda m: with_node(m, "LessOrEqual", lambda node: setattr(node, "op_type", "Less")),
    ),
    "the row goes to another beam": (
        [*STATIC, "fuse_slice_concat"],
        lambda m: with_constant(m, "indices_3.before", lambda x: x[::-1].copy()),
    ),
    "rows of heads are exchanged": (
        list(passes.PASSES),
        lambda m: with_constant(m, "indices_3x2.before", lambda x: x[:, ::-1].copy()),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rewrite_is_caught_by_the_equality_check(small, fault):
    model, cross_kv, past, expected = small
    chosen, plant = FAULTS[fault]
    right = passes.run_all(model, chosen)
    assert_same(run_steps(right, cross_kv, past, [1, 2]), expected, 1e-5)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(run_steps(plant(right), cross_kv, past, [1, 2]), expected, 1e-5)


def test_a_permute_that_the_caller_is_not_informed_of_is_caught(small):
    model, cross_kv, past, _ = small
    rewritten = passes.eliminate_permutes(model)
    rewritten.metadata_props.clear()
    with pytest.raises(Exception, match=r"past_k\.0|cross_k\.0|dimension"):
        run_steps(rewritten, cross_kv, past, [1])


# --- the real step ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tiny, jfk):
    """tiny.en, and the keys and values of cross-attention over a real encoder's output."""
    checkpoint = find_checkpoint("tiny.en")
    mel = features.window(features.log_mel(jfk, checkpoint.config.mels), 0)
    return checkpoint, project_cross_kv(checkpoint, tiny.ours.model.encode(mel[None]).numpy())


@dataclass(frozen=True)
class SmallVocabulary:
    """A real checkpoint with only the first tokens of its vocabulary: small enough for many copies."""

    whole: Checkpoint
    size: int = 500

    @property
    def config(self) -> Config:
        return replace(self.whole.config, vocab_size=self.size)

    def tensors(self):
        for name, array in self.whole.tensors():
            yield name, array[: self.size] if name == "model.decoder.embed_tokens.weight" else array


def real_inputs(real, layers: int):
    """Cross-attention's keys and values of the first layers, and an empty past for five beams."""
    checkpoint, cross_kv = real
    names = [f"{letter}.{layer}" for layer in range(layers) for letter in "kv"]
    empty = np.zeros((5, 0, checkpoint.config.heads, checkpoint.config.head_dim), np.float32)
    return {f"cross_{name}": cross_kv[f"cross_{name}"] for name in names}, {f"past_{name}": empty for name in names}


@pytest.mark.slow
@pytest.mark.weights
def test_every_order_of_the_passes_gives_the_real_steps_logits_and_caches(real):
    cross_kv, past = real_inputs(real, layers=1)
    model = whisper_graphs.decoder_step(SmallVocabulary(real[0]), layers=1)
    expected = run_steps(model, cross_kv, past, TOKENS)
    check_orders(run_orders(model), cross_kv, past, TOKENS, expected)


@pytest.mark.slow
@pytest.mark.weights
def test_the_whole_real_step_after_all_passes_is_the_first_form(real):
    cross_kv, past = real_inputs(real, real[0].config.decoder_layers)
    model = whisper_graphs.decoder_step(real[0])
    expected = run_steps(model, cross_kv, past, TOKENS)
    assert_same(run_steps(passes.run_all(model), cross_kv, past, TOKENS), expected, 1e-4)
