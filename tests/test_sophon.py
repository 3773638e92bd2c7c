"""The road to TPU-MLIR, with small scripts in its place; the readers, on files that it wrote. Notebook 08 runs it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from labsupport import cli, plots, sophon
from labsupport.sophon import compiler, processes, toolchain

SAMPLES = Path(__file__).parent / "data" / "sophon"
NAMES = ("default", "without_affine")


# --- processes --------------------------------------------------------------------------------------------------------


def run_shell(script: str, folder: Path, seconds: float = 20) -> None:
    processes.run_tool(["sh", "-c", script], folder=folder, log=folder / "log", seconds=seconds)


def test_a_tool_that_fails_is_quoted_with_its_last_lines(tmp_path):
    with pytest.raises(sophon.ToolFailed, match="exit code 3") as caught:
        run_shell("for i in $(seq 50); do echo line $i; done; echo 'error: no such op' >&2; exit 3", tmp_path)
    assert "| error: no such op" in str(caught.value)
    assert "| line 50" in str(caught.value)
    assert "line 1\n" not in str(caught.value)


def test_a_tool_that_cannot_be_started_is_an_error_of_ours(tmp_path):
    with pytest.raises(sophon.ToolFailed, match="could not be started"):
        processes.run_tool([tmp_path / "no-such-tool"], folder=tmp_path, log=tmp_path / "log", seconds=5)


def test_a_tool_that_takes_too_long_is_ended_with_its_children_and_no_others(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(sophon.ToolTimeout, match=r"longer than 0.5 s(.|\n)*\| begun"):
            run_shell("echo begun; sleep 60 & echo $! > child; wait", tmp_path, seconds=0.5)
        assert not is_running(int((tmp_path / "child").read_text()))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def is_running(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.02)
    return True


# --- the toolchain ----------------------------------------------------------------------------------------------------


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# A stand-in for uv: "venv" makes a folder with an interpreter, "pip install" puts there what the wheel would bring.
UV = r"""
echo "$@" >> "$CALLS"
case "$1" in
venv) mkdir -p "$4/bin"; ln -s "$(command -v sh)" "$4/bin/python" ;;
pip)
  [ -z "$BREAK" ] || { echo 'error: dns error'; exit 2; }
  package="${4%/bin/python}/lib/python3.10/site-packages/tpu_mlir"
  mkdir -p "$package/lib/third_party" "$package/python/transform"
  for name in libc.so.6 libm.so.6 libpthread.so.0 libz.so.1; do touch "$package/lib/third_party/$name"; done
  printf 'import torch\nx = [torch.tensor(inputs[name]).numpy() for name in names]\n' \
    > "$package/python/transform/OnnxOpt.py"
  for tool in model_transform model_deploy; do
    printf '#!/bin/sh\ntouch check.mlir\n%s\n' "${TOOL:-touch check.bmodel}" > "${4%/bin/python}/bin/$tool"
    chmod +x "${4%/bin/python}/bin/$tool"
  done ;;
esac
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A cache of its own, a uv that is a shell script, a Python 3.10 that is found. Gives the list of uv's calls."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    uv = write_script(tmp_path / "uv", UV)
    monkeypatch.setattr(toolchain, "find_uv", lambda: [str(uv)])
    monkeypatch.setattr(toolchain, "find_python310", lambda: "/usr/bin/python3.10")
    monkeypatch.setattr(toolchain, "check_platform", lambda: None)
    return lambda: calls.read_text().splitlines()


def test_the_toolchain_is_made_pinned_and_only_once(fake):
    assert sophon.find_toolchain() is None
    made = sophon.make_toolchain()
    assert sophon.make_toolchain() == made == sophon.find_toolchain()
    _venv, install = fake()
    assert "tpu_mlir==1.30.2" in install
    assert all("==" in word for word in install.split() if word[0] not in "-/:" and word not in ("pip", "install"))
    assert "--no-deps" in install


def test_the_wheel_is_made_to_run_here(fake):
    package = sophon.make_toolchain().package
    source = (package / "python" / "transform" / "OnnxOpt.py").read_text()
    assert source == "x = [np.array(inputs[name]) for name in names]\n"
    libraries = package / "lib" / "third_party"
    assert sorted(path.name for path in libraries.iterdir()) == ["libz.so.1", "set_aside"]
    assert len(list((libraries / "set_aside").iterdir())) == 3


def test_a_half_made_environment_is_never_called_finished_and_is_made_anew(fake, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    with pytest.raises(sophon.InstallFailed, match="dns error"):
        sophon.make_toolchain()
    folder = toolchain.toolchain_folder()
    (folder / "leftover").touch()
    assert sophon.find_toolchain() is None
    monkeypatch.delenv("BREAK")
    sophon.make_toolchain()
    assert not (folder / "leftover").exists()


def test_an_environment_whose_interpreter_went_away_is_made_anew(fake):
    made = sophon.make_toolchain()
    made.python.unlink()
    assert sophon.find_toolchain() is None
    assert sophon.make_toolchain().python.exists()


@pytest.mark.parametrize(
    ("tool", "said"), [("echo oh; exit 139", r"exit code 139(.|\n)*\| oh"), ("true", "no program")]
)
def test_a_tool_that_does_not_work_is_a_broken_toolchain_not_a_finished_one(fake, monkeypatch, tool, said):
    monkeypatch.setenv("TOOL", tool)
    with pytest.raises(sophon.BrokenToolchain, match=said):
        sophon.make_toolchain()
    assert sophon.find_toolchain() is None


@pytest.mark.parametrize("planted", ["", "import torch\nimport torch\n", "import torch\ntorch.tensor(x)\n"])
def test_another_source_than_the_known_one_is_not_patched(tmp_path, planted):
    source = tmp_path / "OnnxOpt.py"
    source.write_text(planted)
    with pytest.raises(sophon.BrokenToolchain, match="not the one that is known"):
        toolchain.drop_torch(source)
    assert source.read_text() == planted


def test_the_installers_cache_keeps_its_own_copy(tmp_path):
    """uv hard-links packages out of its cache: what is written in place there would be in the next environment too."""
    source = tmp_path / "OnnxOpt.py"
    source.write_text("import torch\nx = torch.tensor(inputs[name]).numpy()\n")
    cached = tmp_path / "cached.py"
    os.link(source, cached)
    toolchain.drop_torch(source)
    assert "import torch" in cached.read_text()
    assert "torch" not in source.read_text()


def test_other_pins_are_another_environment(monkeypatch):
    before = toolchain.toolchain_folder()
    pins = toolchain.read_pins()
    monkeypatch.setattr(toolchain, "read_pins", lambda: {**pins, "packages": [*pins["packages"], "x==1"]})
    assert toolchain.toolchain_folder() != before


def test_every_pin_is_exact():
    pins = toolchain.read_pins()
    assert pins["tpu_mlir"] == "1.30.2"
    assert all(pin.count("==") == 1 and not set(pin) & set("<>*~") for pin in pins["packages"])


def test_without_python_310_the_error_says_what_to_do(monkeypatch, tmp_path):
    shim = write_script(tmp_path / "python3.10", "exit 127")
    monkeypatch.setattr(toolchain, "candidate_pythons", lambda: iter([str(shim), "/no/such/python3.10"]))
    with pytest.raises(sophon.NoPython310, match=r"uv python install 3\.10") as caught:
        sophon.find_python310()
    assert str(shim) in str(caught.value)
    assert isinstance(caught.value, sophon.NotHere)


def test_a_python_of_another_version_is_passed_over(monkeypatch, tmp_path):
    other = write_script(tmp_path / "other", "echo 3 12")
    right = write_script(tmp_path / "right", "echo 3 10")
    monkeypatch.setattr(toolchain, "candidate_pythons", lambda: iter([str(other), str(right)]))
    assert sophon.find_python310() == str(right)


def test_pyenv_is_looked_at(monkeypatch, tmp_path):
    python = write_script(tmp_path / "versions" / "3.10.99" / "bin" / "python3.10", "echo 3 10")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert str(python) in list(toolchain.candidate_pythons())


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_other_platforms_are_told_so_at_once(monkeypatch, system, machine):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(sophon.WrongPlatform, match=machine):
        sophon.make_toolchain()


def test_the_tools_see_their_own_python_first_and_none_of_ours(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    env = toolchain.Toolchain(Path("/env"), "1").environment()
    assert env["PATH"].split(os.pathsep)[0] == "/env/bin"
    assert env["LD_LIBRARY_PATH"].endswith("tpu_mlir/lib/third_party")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(env)


def test_the_command_makes_it_and_says_where(fake):
    done = CliRunner().invoke(cli.app, ["sophon"])
    assert done.exit_code == 0
    assert "TPU-MLIR 1.30.2 is ready" in done.output.replace("\n", " ")


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
    with pytest.raises(sophon.SophonError, match="no pass 'magic'"):
        sophon.compile_graph(product(), matrices(), tools, without=["magic"])
    with pytest.raises(sophon.SophonError, match="does not run"):
        compiler.leave_out([["tpuc-opt", "--canonicalize"]], ["layer-group"])


def test_a_log_with_other_commands_is_refused(tmp_path):
    log = tmp_path / "deploy.log"
    log.write_text("\n".join((SAMPLES / "deploy.log").read_text().splitlines()[:9]))
    with pytest.raises(sophon.DamagedOutput, match="commands that are known"):
        compiler.read_commands(log)


@pytest.mark.parametrize("tool", ["model_transform", "model_deploy"])
def test_a_compiler_that_fails_leaves_nothing_half_made(tools, monkeypatch, tool):
    monkeypatch.setenv("BREAK", tool)
    with pytest.raises(sophon.ToolFailed, match="cannot lower the op"):
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
    with pytest.raises(sophon.DamagedOutput, match="not the graph's"):
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
    with pytest.raises(sophon.SophonError, match="gives no caches"):
        sophon.new_rows_only(product())
    with pytest.raises(sophon.SophonError, match="not made by appending"):
        sophon.new_rows_only(appending_step("Identity"))


# --- reading ----------------------------------------------------------------------------------------------------------


def sample(name: str, kind: str) -> Path:
    return SAMPLES / f"{name}.{kind}"


@pytest.mark.parametrize("name", NAMES)
def test_the_profile_agrees_with_the_tools_own_summary(name):
    text = sample(name, "profile.txt").read_text()
    profile = sophon.read_profile(sample(name, "profile.txt"))
    assert f"S2L:{profile.moved('in')}|dr[1] L2S:{profile.moved('out')}|dr[2] S2S:{profile.moved('copy')}" in text
    assert profile.cycles == max(c.start + c.cycles for c in profile.commands)
    assert max(profile.busy("TIU"), profile.busy("GDMA")) <= profile.cycles
    assert text.count("|s:") == len(profile.commands)


@pytest.mark.parametrize("engine", ["TIU", "GDMA"])
def test_an_engine_does_one_thing_at_a_time(engine):
    own = [c for c in sophon.read_profile(sample("default", "profile.txt")).commands if c.engine == engine]
    own.sort(key=lambda command: command.start)
    assert all(a.start + a.cycles <= b.start for a, b in itertools.pairwise(own))


def test_the_table_counts_every_cycle_and_byte_once_and_says_what_it_is():
    profile = sophon.read_profile(sample("default", "profile.txt"))
    table = profile.table()
    assert sum(row.cycles for row in table) == profile.busy("TIU") + profile.busy("GDMA")
    assert sum(row.bytes for row in table) == profile.moved()
    assert sum(row.commands for row in table) == len(profile.commands)
    assert sophon.ESTIMATE in table._repr_markdown_()
    assert sophon.ESTIMATE in repr(table)


def test_the_table_is_recorded_op_by_op_and_engine_by_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    table = sophon.read_profile(sample("default", "profile.txt")).table()
    written = table.record("a step")
    assert [(row.value, row.unit) for row in written] == [(one.cycles, "cycles") for one in table]
    assert written[0].what == f"ops of a step: {table.rows[0].op}, {table.rows[0].engine}"
    assert all(sophon.ESTIMATE in row.note for row in written)


def test_slices_copy_in_dram_until_the_affine_pass_makes_them_offsets_of_a_load():
    """The same graph, compiled with and without one pass."""
    merged, apart = [sophon.read_profile(sample(name, "profile.txt")) for name in NAMES]
    assert merged.moved("copy") == 0
    assert apart.moved("copy") == 2 * 5 * 447 * 8 * 64 * 2  # both caches, all rows but the oldest, in F16
    assert merged.table().cycles_of("Slice") == 0 < apart.table().cycles_of("Slice")
    assert "Slice" not in sophon.count_ops(sample("default", "final.mlir"))
    assert sophon.count_ops(sample("without_affine", "final.mlir"))["Slice"] == 2


def test_an_op_of_the_profile_stands_at_its_line_of_the_final_graph():
    profile = sophon.read_profile(sample("default", "profile.txt"))
    lines = sample("default", "final.mlir").read_text().splitlines()
    assert all(f'"tpu.{command.op}"(' in lines[command.line - 1] for command in profile.commands)
    places = sophon.read_places(sample("default", "final.mlir"))
    loads = {places[command.line] for command in profile.commands if command.op == "Load"}
    assert {"load_ks_Slice", "load_vs_Slice"} <= loads


def test_groups_and_what_stands_alone():
    merged, apart = [sophon.read_grouping(sample(name, "final.mlir")) for name in NAMES]
    assert len(merged.groups) == 1
    assert Counter(merged.alone) == {"MatMul": 1}
    assert Counter(apart.alone) == {"MatMul": 1, "Slice": 2}
    assert merged.share_grouped == pytest.approx(10 / 11)
    assert merged.groups[0].count("MatMul") == 5


@pytest.mark.parametrize("part", [0.0, 0.3, 0.98])
def test_a_truncated_profile_is_no_profile(tmp_path, part):
    text = sample("default", "profile.txt").read_text()
    path = tmp_path / "compiler_profile_0.txt"
    path.write_text(text[: int(len(text) * part)])
    with pytest.raises(sophon.DamagedOutput, match="no whole profile"):
        sophon.read_profile(path)


def test_a_truncated_or_missing_graph_is_damage(tmp_path):
    path = tmp_path / "final.mlir"
    with pytest.raises(sophon.DamagedOutput, match="cannot be read"):
        sophon.count_ops(path)
    text = sample("default", "final.mlir").read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(sophon.DamagedOutput, match="ends before"):
        sophon.count_ops(path)


def test_the_plot_has_a_lane_for_each_engine():
    profiles = {name: sophon.read_profile(sample(name, "profile.txt")) for name in NAMES}
    drawn = sophon.draw_gantt(profiles)
    (axes,) = drawn.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"{n}: {e}" for n in NAMES for e in ("TIU", "GDMA")]
    assert sophon.ESTIMATE in axes.get_xlabel()
    assert plots.to_png(drawn)[:4] == b"\x89PNG"


def test_stored_samples_are_small_and_name_no_machine():
    files = list(SAMPLES.iterdir())
    assert sum(path.stat().st_size for path in files) < 100_000
    assert not [path for path in files if "/root" in path.read_text() or "/tmp" in path.read_text()]
