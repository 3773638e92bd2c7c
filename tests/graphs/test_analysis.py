"""Article B's graph rewrites on whole decode steps, small ones and the real one: equal numbers in every order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from labsupport import profiling, whisper
from labsupport.base.errors import GraphError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.random_weights import tensor_shapes
from labsupport.checkpoints.resolve import Checkpoint, find_checkpoint
from labsupport.graphs import analysis, passes, whisper_graphs
from labsupport.graphs.loop import Loop, cross_inputs, past_after, profile_step
from labsupport.graphs.loop_interface import LoopInterface, read_interface
from labsupport.graphs.passes import cache, permutes
from labsupport.speech import audio, features

ORDERS = list(itertools.permutations(passes.PASSES))
ONE_THREAD = {"threads": 1}
FEW = settings(max_examples=15, deadline=None)


# --- the whole step, small and with random weights ------------------------------------------------------------------


@dataclass(frozen=True)
class RandomCheckpoint:
    """A Whisper of any small shape with random weights, as the graph's builder wants one."""

    config: Config
    seed: int

    def tensors(self):
        """Larger weights than a fresh model's, so that attention is far from uniform."""
        random = np.random.default_rng(self.seed)
        for name, shape in tensor_shapes(self.config):
            yield name, (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def make_inputs(config: Config, beams: int, length: int, seed: int):
    """Cross-attention's keys and values, and a past of `length` tokens, all random."""
    random, rest = np.random.default_rng(seed), (config.heads, config.head_dim)

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    names = [f"{letter}.{layer}" for layer in range(config.decoder_layers) for letter in "kv"]
    cross = {f"cross_{name}": draw(1, config.audio_positions, *rest) for name in names}
    return cross, {f"past_{name}": draw(beams, length, *rest) for name in names}


def run_steps(model, cross, past, tokens) -> dict[str, np.ndarray]:
    """The logits of every step, and all caches afterwards."""
    loop = Loop(model, cross, past, **ONE_THREAD)
    logits = {f"logits {n}": loop.step(np.full((len(next(iter(past.values()))), 1), t)) for n, t in enumerate(tokens)}
    return logits | {name: loop.rows(name) for name in past}


def assert_same(got: dict, expected: dict, atol: float) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=atol, rtol=0, err_msg=name)


@st.composite
def small_steps(draw):
    """A decode step of random shape and weights, and inputs for it."""
    heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    config = Config(heads * draw(st.sampled_from([2, 4])), 1, layers, heads, 11, audio_positions=6, text_positions=9)
    seed, beams = draw(st.integers(0, 99)), draw(st.integers(1, 3))
    model = whisper_graphs.decoder_step(RandomCheckpoint(config, seed), beams)
    return model, make_inputs(config, beams, draw(st.integers(0, 5)), seed)


@FEW
@given(small_steps(), st.sampled_from(ORDERS), st.integers(0, 4))
def test_any_passes_in_any_order_leave_a_small_step_as_it_was(step, order, count):
    model, (cross, past) = step
    expected = run_steps(model, cross, past, [1, 2, 3])
    before = model.SerializeToString()
    rewritten = passes.run_all(model, order[:count])
    analysis.check(rewritten)
    assert_same(run_steps(rewritten, cross, past, [1, 2, 3]), expected, 2e-5)
    assert model.SerializeToString() == before


SMALL = Config(8, 1, 2, 2, 11, audio_positions=6, text_positions=9)


@pytest.fixture(scope="module")
def small():
    """A small step, its inputs, and what it gives."""
    model = whisper_graphs.decoder_step(RandomCheckpoint(SMALL, 0), 3)
    cross, past = make_inputs(SMALL, 3, 4, 0)
    return model, cross, past, run_steps(model, cross, past, [1, 2])


def test_each_pass_does_its_work_and_no_other(small):
    model = small[0]
    tiles, permutes = analysis.op_counts(model)["Tile"], analysis.op_counts(model)["Transpose"]
    assert (tiles, permutes) == (4, 16)
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


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_the_fusion_needs_the_static_cache_before_it_and_nothing_else_needs_an_order(small, order):
    last = analysis.op_counts(passes.run_all(small[0], order))
    fused = order.index("cache_to_static") < order.index("fuse_slice_concat")
    assert (last["Slice"], last["ScatterND"]) == ((0, 4) if fused else (4, 0))
    assert (last["Tile"], last["Transpose"]) == (0, 0)


def test_the_interface_says_how_the_caches_are_kept(small):
    plain, turned = (0, 1, 2, 3), (0, 2, 1, 3)
    form = read_interface(small[0])
    assert form == LoopInterface("grows", None, plain, plain)
    static = cache.cache_to_static(small[0], capacity=9)
    assert read_interface(static) == LoopInterface("shifts", 9, plain, plain)
    last = cache.fuse_slice_concat(permutes.eliminate_permutes(static))
    assert read_interface(last) == LoopInterface("in place", 9, turned, turned)


def test_a_past_of_fixed_length_gives_the_capacity(small):
    fixed = whisper_graphs.decoder_step(RandomCheckpoint(SMALL, 0), 3, capacity=7)
    assert read_interface(cache.cache_to_static(fixed)).capacity == 7
    assert read_interface(cache.cache_to_static(small[0])).capacity == cache.CAPACITY
    shapes = analysis.shapes_of(passes.run_all(fixed))
    assert all(isinstance(dim, int) for shape in shapes.values() for dim in shape)


# --- wrong rewrites are caught --------------------------------------------------------------------------------------


def with_constant(model, name, change) -> onnx.ModelProto:
    """A copy in which one constant is another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    place = next(i for i, tensor in enumerate(copy.graph.initializer) if tensor.name == name)
    array = change(numpy_helper.to_array(copy.graph.initializer[place]))
    copy.graph.initializer[place].CopyFrom(numpy_helper.from_array(array, name))
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
        lambda m: with_constant(m, "places_3.before", lambda x: x[::-1].copy()),
    ),
    "rows of heads are exchanged": (
        list(passes.PASSES),
        lambda m: with_constant(m, "places_3x2.before", lambda x: x[:, ::-1].copy()),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rewrite_is_caught_by_the_equality_check(small, fault):
    model, cross, past, expected = small
    passes, plant = FAULTS[fault]
    right = passes.run_all(model, passes)
    assert_same(run_steps(right, cross, past, [1, 2]), expected, 1e-5)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(run_steps(plant(right), cross, past, [1, 2]), expected, 1e-5)


def test_a_permute_dropped_without_telling_the_caller_is_caught(small):
    model, cross, past, _ = small
    rewritten = permutes.eliminate_permutes(model)
    rewritten.metadata_props.clear()
    with pytest.raises(Exception, match=r"past_k\.0|cross_k\.0|dimension"):
        run_steps(rewritten, cross, past, [1])


# --- a cache that somebody else reads -------------------------------------------------------------------------------


def with_reader(model, value: str, op: str, **attributes) -> onnx.ModelProto:
    """A copy in which one more op reads a value, for the graph's caller."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(helper.make_node(op, [value], ["extra"], **attributes))
    copy.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, None))
    return copy


def test_caches_whose_rows_are_read_otherwise_are_left_alone(small):
    growing = with_reader(small[0], "k.0", "ReduceMax", axes=[1])
    assert cache.cache_to_static(growing).SerializeToString() == growing.SerializeToString()
    shifting = with_reader(cache.cache_to_static(small[0]), "v.1", "ReduceMax", axes=[1])
    assert cache.fuse_slice_concat(shifting).SerializeToString() == shifting.SerializeToString()
    weights = next(node.output[0] for node in small[0].graph.node if node.op_type == "Softmax")
    looked_at = with_reader(small[0], weights, "Identity")
    assert cache.cache_to_static(looked_at).SerializeToString() == looked_at.SerializeToString()


# --- what the counts say --------------------------------------------------------------------------------------------


def test_bytes_of_a_free_length_need_its_value(small):
    with pytest.raises(GraphError, match="free lengths"):
        analysis.bytes_moved(small[0])
    short, long = (sum(analysis.bytes_by_op(small[0], past=past).values()) for past in (10, 20))
    assert long > short
    last = passes.run_all(small[0])
    assert (
        analysis.bytes_by_op(last)["ScatterND"] < analysis.bytes_by_op(passes.run_all(small[0], STATIC))["Concat"] / 100
    )


def test_the_row_is_written_into_the_bound_buffer_itself(small):
    model, cross, past, _ = small
    loop = Loop(passes.run_all(model), cross, past, **ONE_THREAD)
    value = loop.caches["past_k.1"]
    before = value.numpy().copy()
    loop.step(np.full((3, 1), 1))
    changed = np.argwhere((value.numpy() != before).any((0, 1, 3))).ravel()
    assert changed.tolist() == [4]
    assert loop.caches["past_k.1"] is value


def test_a_loop_keeps_its_inputs_alive(small):
    model, cross, past, expected = small
    loop = Loop(permutes.eliminate_permutes(model), cross, past, **ONE_THREAD)
    litter = [np.full(array.shape, np.nan, np.float32) for array in cross.values() for _ in range(50)]
    np.testing.assert_allclose(loop.step(np.full((3, 1), 1)), expected["logits 0"], atol=1e-5)
    assert len(litter) == 50 * len(cross)


def test_a_past_that_fills_the_cache_is_refused(small):
    model, cross, past, _ = small
    with pytest.raises(GraphError, match="no room"):
        Loop(cache.cache_to_static(model, capacity=4), cross, past, **ONE_THREAD)


# --- the real step --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """tiny.en's step, and the keys and values of cross-attention over a real encoder's output."""
    checkpoint = find_checkpoint("tiny.en")
    transcriber = whisper.load("tiny.en", "torch")
    mel = features.window(features.log_mel(audio.read(audio.clip("jfk").path), checkpoint.config.mels), 0)
    sound = transcriber.model.encode(mel[None]).numpy()
    return checkpoint, cross_inputs(checkpoint, sound), transcriber.tokenizer.encode(audio.clip("jfk").text)


@dataclass(frozen=True)
class FewWords:
    """A real checkpoint that scores only the first tokens of its vocabulary: small enough for many copies."""

    whole: Checkpoint
    words: int = 4000

    @property
    def config(self) -> Config:
        return replace(self.whole.config, vocab_size=self.words)

    def tensors(self):
        for name, array in self.whole.tensors():
            yield name, array[: self.words] if name == "model.decoder.embed_tokens.weight" else array


def real_inputs(real, layers: int):
    """Cross-attention and an empty past for five beams, and the first tokens of the text."""
    checkpoint, cross, text = real
    rest = checkpoint.config.heads, checkpoint.config.head_dim
    names = [f"{letter}.{layer}" for layer in range(layers) for letter in "kv"]
    past = {f"past_{name}": np.zeros((5, 0, *rest), np.float32) for name in names}
    return {f"cross_{name}": cross[f"cross_{name}"] for name in names}, past, text[:5]


def test_every_order_of_the_passes_gives_the_real_steps_logits_and_caches(real):
    few = FewWords(real[0])
    cross, past, text = real_inputs(real, layers=1)
    text = [token % few.words for token in text]
    model = whisper_graphs.decoder_step(few, layers=1)
    expected, forms = run_steps(model, cross, past, text), {(): model}
    for order in ORDERS:
        for count in range(1, 5):
            if order[:count] not in forms:
                forms[order[:count]] = passes.run_all(forms[order[: count - 1]], order[count - 1 : count])
        assert_same(run_steps(forms[order], cross, past, text), expected, 1e-4)


def test_the_whole_real_step_after_all_passes_is_the_first_form(real):
    checkpoint = real[0]
    cross, past, text = real_inputs(real, checkpoint.config.decoder_layers)
    model = whisper_graphs.decoder_step(checkpoint)
    expected = run_steps(model, cross, past, text)
    assert_same(run_steps(passes.run_all(model), cross, past, text), expected, 1e-4)


def test_a_past_is_what_the_steps_leave(small):
    _, cross, _, _ = small
    checkpoint = RandomCheckpoint(SMALL, 0)
    past = past_after(whisper_graphs.decoder_step(checkpoint, 2), checkpoint, cross, [1, 2, 3], beams=2)
    again = past_after(whisper_graphs.decoder_step(checkpoint, 1), checkpoint, cross, [1, 2, 3], beams=1)
    for name, rows in past.items():
        assert rows.shape == (2, 3, SMALL.heads, SMALL.head_dim)
        np.testing.assert_allclose(rows, np.repeat(again[name], 2, axis=0), atol=1e-6)


def test_the_op_table_of_a_step_counts_the_graphs_ops(small, tmp_path):
    model, cross, past, _ = small
    table = profile_step(model, cross, past, np.full((3, 1), 1), tmp_path, runs=3, optimise=False, **ONE_THREAD)
    counts = {row.name: row.calls for row in table}
    assert counts == dict(analysis.op_counts(model))
    assert isinstance(table, profiling.Table)
