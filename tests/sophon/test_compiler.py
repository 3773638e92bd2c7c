"""Compiling, verifying, leaving passes out, with small scripts as the tools; notebook 08 runs the real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import matrices, product

from labsupport.base.errors import SophonError
from labsupport.sophon import compiler
from labsupport.sophon.compiler import compile_graph
from labsupport.sophon.readers import read_profile
from labsupport.sophon.toolchain import Toolchain

SAMPLES = Path(__file__).parents[1] / "data" / "sophon"


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


TOOLS = ("model_transform", "model_deploy", "model_runner", "tpuc-opt")


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Toolchain:
    """A toolchain of scripts, which write their calls into the file `calls`, and an empty cache."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in TOOLS:
        script(tmp_path / "env" / "bin" / name)
    return Toolchain(tmp_path / "env", "1.30.2")


def script(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TOOL)
    path.chmod(0o755)


def calls(tools: Toolchain) -> list[str]:
    return (tools.folder.parent / "calls").read_text().splitlines()


def tool_names(tools: Toolchain) -> list[str]:
    return [call.split()[0] for call in calls(tools)]


def test_the_same_inputs_are_compiled_once_and_others_anew(tools):
    first = compile_graph(product(), matrices(), tools)
    assert compile_graph(product(), matrices(), tools) == first
    assert tool_names(tools) == ["model_transform", "model_deploy"]
    other = compile_graph(product(), matrices(seed=1), tools)
    assert other.folder != first.folder
    assert len(calls(tools)) == 4


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=4))
def test_a_hash_depends_on_where_one_part_ends(parts):
    assert compiler.hash_of(parts) == compiler.hash_of(list(parts))
    assert compiler.hash_of(parts) != compiler.hash_of([*parts, b""])
    if any(parts[1:]):
        assert compiler.hash_of(parts) != compiler.hash_of([b"".join(parts), *[b""] * (len(parts) - 1)])


def test_only_what_is_read_again_is_stored_and_damage_is_repaired(tools):
    compiled = compile_graph(product(), matrices(), tools)
    assert compiled.program.read_bytes() == b"program"
    assert not (compiled.folder / "rubbish.npz").exists()
    assert not list(compiled.folder.glob("*_top.npz"))
    assert all(compiled.stage(name).is_file() for name in compiler.STAGES)
    compiled.profile.write_text("TCYC")
    (compiled.folder / "outputs.npz").unlink()
    again = compile_graph(product(), matrices(), tools)
    assert read_profile(again.profile).cycles
    assert tool_names(tools) == ["model_transform", "model_deploy"] * 2


def test_a_pass_is_left_out_of_the_tools_own_commands(tools, monkeypatch):
    whole = compile_graph(product(), matrices(), tools)
    monkeypatch.setenv("PROFILE", "without_affine")
    less = compile_graph(product(), matrices(), tools, without=["affine-opt"])
    assert tool_names(tools)[2:] == ["tpuc-opt"] * 3 + ["model_runner"]
    lowered, optimised, _ = [call for call in calls(tools) if call.startswith("tpuc-opt")]
    assert "--processor-tpu-optimize" in lowered
    assert "--layer-group=opt=2 group_by_cores" in optimised
    assert "--affine-opt" not in optimised
    assert read_profile(less.profile).cycles > read_profile(whole.profile).cycles
    assert less.stage("lowered").read_text() == whole.stage("lowered").read_text()
    assert less.stage("top") == whole.stage("top")
    assert compile_graph(product(), matrices(), tools, without=["affine-opt"]) == less
    assert len(calls(tools)) == 6


def test_an_unknown_pass_is_refused(tools):
    with pytest.raises(SophonError, match="no pass 'magic'"):
        compile_graph(product(), matrices(), tools, without=["magic"])
    with pytest.raises(SophonError, match="does not run 'layer-group'"):
        compiler.leave_out([["tpuc-opt", "--canonicalize"]], ["layer-group"])


def test_a_log_with_other_commands_is_refused(tmp_path):
    log = tmp_path / "deploy.log"
    log.write_text("\n".join((SAMPLES / "deploy.log").read_text().splitlines()[:9]))
    with pytest.raises(SophonError, match=r"ran \d commands after lowering, not 3"):
        compiler.read_commands(log)


def test_a_compiler_that_fails_leaves_nothing_half_made(tools, monkeypatch):
    monkeypatch.setenv("BREAK", "model_deploy")
    with pytest.raises(SophonError, match="cannot lower the op"):
        compile_graph(product(), matrices(), tools)
    monkeypatch.delenv("BREAK")
    assert compile_graph(product(), matrices(), tools).profile.is_file()


def test_the_simulator_is_held_against_onnx_runtime(tools, monkeypatch):
    (agreement,) = compile_graph(product(), matrices(), tools).agreement()
    assert agreement.name == "c"
    assert agreement.max_error < 1e-6
    assert agreement.cosine == pytest.approx(1)
    monkeypatch.setenv("OFF", "0.5")  # a program that computes something else
    compiled = compile_graph(product(), matrices(seed=1), tools)
    (agreement,) = compiled.agreement()
    assert agreement.max_error == pytest.approx(0.5, rel=1e-4)
    assert agreement.cosine < 0.99
    np.savez(compiled.folder / "outputs.npz", c=np.zeros((4, 5), np.float32))
    with pytest.raises(SophonError, match="other shapes than the graph's"):
        compiled.agreement()
