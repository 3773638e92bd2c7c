"""Compiling, verifying, leaving passes out: with small scripts in the tools' place. Notebook 08 runs the real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from labsupport import sophon
from labsupport.base.errors import SophonError
from labsupport.sophon import compiler, toolchain

SAMPLES = Path(__file__).parents[1] / "data" / "sophon"


# --- compiling --------------------------------------------------------------------------------------------------------

# A stand-in for all tools: counts its calls, and writes what the real ones write.
TOOL = f"""#!{sys.executable}
import os, shutil, sys
from pathlib import Path
import numpy as np
tool, samples = Path(sys.argv[0]).name, Path({str(SAMPLES)!r})
with open(os.environ["CALLS"], "a") as calls:
    print(tool, *sys.argv[1:], file=calls)
if os.environ.get("BREAK") == tool:
    sys.exit("error: cannot lower the op")
profile = os.environ.get("PROFILE", "default")
prefix = "step_bm1684x_f16"
if tool == "model_transform":
    for name in ("step_origin.mlir", "step.mlir"):
        Path(name).write_text("module {{\\n}} loc(x)\\n")
    shutil.copy("inputs.npz", "step_in_f32.npz")
    shutil.copy("inputs.npz", "step_top.npz")
if tool == "model_deploy":
    Path(prefix + "_tpu.mlir").write_text("lowered")
    Path(prefix + "_tpu_opt.mlir").write_text("optimised")
    Path(prefix + "_tpu_weights.npz").write_bytes(b"weights")
    Path("rubbish.npz").write_bytes(b"rubbish")
    Path("step.bmodel").write_bytes(b"program")
    print((samples / "deploy.log").read_text())
if tool in ("model_deploy", "tpuc-opt"):
    shutil.copy(samples / (profile + ".final.mlir"), prefix + "_final.mlir")
    shutil.copy(samples / (profile + ".profile.txt"), "compiler_profile_0.txt")
if tool in ("model_deploy", "model_runner"):
    a = np.load("step_in_f32.npz")
    out = "outputs.npz" if tool == "model_runner" else prefix + "_model_outputs.npz"
    np.savez(out, c_MatMul=a["a"] @ a["b"] + float(os.environ.get("OFF", "0")))
"""


def product() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, 4)) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matrices(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((4, 4)).astype(np.float32) for name in "ab"}


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A toolchain of scripts; its list of calls is the attribute `calls`."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    for name in ("model_transform", "model_deploy", "model_runner", "tpuc-opt"):
        path = tmp_path / "env" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TOOL)
        path.chmod(0o755)
    monkeypatch.setattr(toolchain.Toolchain, "calls", property(lambda self: calls.read_text().splitlines()), raising=0)
    return toolchain.Toolchain(tmp_path / "env", "1.30.2")


def tool_names(tools) -> list[str]:
    return [call.split()[0] for call in tools.calls]


def test_the_same_inputs_are_compiled_once_and_others_anew(tools):
    first = sophon.compile_graph(product(), matrices(), tools)
    assert sophon.compile_graph(product(), matrices(), tools) == first
    assert tool_names(tools) == ["model_transform", "model_deploy"]
    other = sophon.compile_graph(product(), matrices(seed=1), tools)
    assert other.folder != first.folder
    assert len(tools.calls) == 4


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=4))
def test_a_hash_knows_where_one_part_ends(parts):
    assert compiler.hash_of(parts) == compiler.hash_of(list(parts))
    assert compiler.hash_of(parts) != compiler.hash_of([*parts, b""])
    if any(parts[1:]):
        assert compiler.hash_of(parts) != compiler.hash_of([b"".join(parts), *[b""] * (len(parts) - 1)])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "compiler_profile_0.txt").write_text("TCYC"),
        lambda folder: (folder / "outputs.npz").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
)
def test_a_damaged_result_is_made_again(tools, damage):
    compiled = sophon.compile_graph(product(), matrices(), tools)
    damage(compiled.folder)
    again = sophon.compile_graph(product(), matrices(), tools)
    assert sophon.read_profile(again.profile).cycles
    assert tool_names(tools) == ["model_transform", "model_deploy"] * 2


def test_only_what_is_read_again_is_kept(tools):
    compiled = sophon.compile_graph(product(), matrices(), tools)
    assert compiled.program.read_bytes() == b"program"
    assert not (compiled.folder / "rubbish.npz").exists()
    assert not list(compiled.folder.glob("*_top.npz"))
    assert all(compiled.stage(name).is_file() for name in sophon.STAGES)


def test_a_pass_is_left_out_of_the_tools_own_commands(tools, monkeypatch):
    whole = sophon.compile_graph(product(), matrices(), tools)
    monkeypatch.setenv("PROFILE", "without_affine")
    less = sophon.compile_graph(product(), matrices(), tools, without=["affine-opt"])
    assert tool_names(tools)[2:] == ["tpuc-opt"] * 3 + ["model_runner"]
    lowered, optimised, _ = [call for call in tools.calls if call.startswith("tpuc-opt")]
    assert "--processor-tpu-optimize" in lowered
    assert "--layer-group=opt=2 group_by_cores" in optimised
    assert "--affine-opt" not in optimised
    assert sophon.read_profile(less.profile).cycles > sophon.read_profile(whole.profile).cycles
    assert less.stage("lowered").read_text() == whole.stage("lowered").read_text()
    assert less.stage("top") == whole.stage("top")
    assert sophon.compile_graph(product(), matrices(), tools, without=["affine-opt"]) == less
    assert len(tools.calls) == 6


def test_an_unknown_pass_is_refused(tools):
    with pytest.raises(SophonError, match="no pass 'magic'"):
        sophon.compile_graph(product(), matrices(), tools, without=["magic"])
    with pytest.raises(SophonError, match="does not run"):
        compiler.leave_out([["tpuc-opt", "--canonicalize"]], ["layer-group"])


def test_a_log_with_other_commands_is_refused(tmp_path):
    log = tmp_path / "deploy.log"
    log.write_text("\n".join((SAMPLES / "deploy.log").read_text().splitlines()[:9]))
    with pytest.raises(SophonError, match="commands that are known"):
        compiler.read_commands(log)


@pytest.mark.parametrize("tool", ["model_transform", "model_deploy"])
def test_a_compiler_that_fails_leaves_nothing_half_made(tools, monkeypatch, tool):
    monkeypatch.setenv("BREAK", tool)
    with pytest.raises(SophonError, match="cannot lower the op"):
        sophon.compile_graph(product(), matrices(), tools)
    monkeypatch.delenv("BREAK")
    assert sophon.compile_graph(product(), matrices(), tools).profile.is_file()


def test_the_simulator_is_held_against_onnx_runtime(tools):
    (agreement,) = sophon.compile_graph(product(), matrices(), tools).agreement()
    assert agreement.name == "c"
    assert agreement.max_error < 1e-6
    assert agreement.cosine == pytest.approx(1)


def test_a_program_that_computes_something_else_is_seen(tools, monkeypatch):
    monkeypatch.setenv("OFF", "0.5")
    (agreement,) = sophon.compile_graph(product(), matrices(), tools).agreement()
    assert agreement.max_error == pytest.approx(0.5, rel=1e-4)
    assert agreement.cosine < 0.99


def test_outputs_of_another_shape_are_damage(tools):
    compiled = sophon.compile_graph(product(), matrices(), tools)
    np.savez(compiled.folder / "outputs.npz", c=np.zeros((4, 5), np.float32))
    with pytest.raises(SophonError, match="not the graph's"):
        compiled.agreement()


# --- the rewrite ------------------------------------------------------------------------------------------------------


def appending_step(kind: str = "Concat") -> onnx.ModelProto:
    """past_k.0 (2, 3, 4) and a row (2, 1, 4) -> k.0 (2, 4, 4), and a sum over all of it."""
    shapes = {"past_k.0": (2, 3, 4), "row": (2, 1, 4), "k.0": (2, 4, 4), "sum": (2, 1, 4)}
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    append = helper.make_node("Concat", ["past_k.0", "new"], ["k.0"], axis=1)
    if kind != "Concat":
        append = helper.make_node(kind, ["new"], ["k.0"])
    nodes = [
        helper.make_node("Neg", ["row"], ["new"]),
        append,
        helper.make_node("ReduceSum", ["k.0", "axis"], ["sum"], keepdims=1),
    ]
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(nodes, "step", [value["past_k.0"], value["row"]], [value["sum"], value["k.0"]], [axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_step_that_gives_new_rows_only_computes_the_same():
    random = np.random.default_rng(0)
    inputs = {
        "past_k.0": random.standard_normal((2, 3, 4)).astype(np.float32),
        "row": random.standard_normal((2, 1, 4)).astype(np.float32),
    }
    whole = appending_step()
    before = whole.SerializeToString()
    expected, got = compiler.run_onnx(whole, inputs), compiler.run_onnx(sophon.new_rows_only(whole), inputs)
    np.testing.assert_array_equal(got["sum"], expected["sum"])
    np.testing.assert_array_equal(got["k.0"], expected["k.0"][:, -1:])
    assert whole.SerializeToString() == before
    onnx.checker.check_model(sophon.new_rows_only(whole), full_check=True)


def test_a_step_without_appended_caches_is_refused():
    with pytest.raises(SophonError, match="gives no caches"):
        sophon.new_rows_only(product())
    with pytest.raises(SophonError, match="not made by appending"):
        sophon.new_rows_only(appending_step("Identity"))
