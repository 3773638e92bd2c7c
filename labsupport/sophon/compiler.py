"""An ONNX graph -> a program for the BM1684X: transformed, lowered to F16, laid out, and run on the chip's simulator.

Every result is stored under the hash of what it was made from, so that no graph is compiled twice.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.cached_folder import cached_folder
from labsupport.base.errors import SophonError
from labsupport.base.paths import cache_dir
from labsupport.graphs.session import open_session
from labsupport.sophon.toolchain import Toolchain

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, np.ndarray]
NAME = "step"
PROCESSOR, QUANTIZE = "bm1684x", "F16"
LOWERED = f"{NAME}_{PROCESSOR}_{QUANTIZE.lower()}"
VERSION = "2"  # of how the tools are called here; raise it when the same inputs would give other files
MEGABYTES = 1500  # about what six layers take while they are compiled
PASSES = ("processor-tpu-optimize", "layer-group", "affine-opt")
STAGES = {
    "imported": f"{NAME}_origin.mlir",
    "top": f"{NAME}.mlir",
    "lowered": f"{LOWERED}_tpu.mlir",
    "optimised": f"{LOWERED}_tpu_opt.mlir",
    "final": f"{LOWERED}_final.mlir",
}


@dataclass(frozen=True)
class Agreement:
    """One output on the simulator against ONNX Runtime: the largest absolute error, and the cosine of the two."""

    name: str
    max_error: float
    cosine: float


@dataclass(frozen=True)
class Compiled:
    """A compiled graph.

    folder: what the compiler wrote; origin, the same unless passes were left out: the graph before it was lowered, and
    the reference outputs.
    """

    folder: Path
    origin: Path

    def stage(self, name: str) -> Path:
        """The graph at one of `STAGES`."""
        return (self.origin if name in ("imported", "top") else self.folder) / STAGES[name]

    @property
    def profile(self) -> Path:
        """The compiler's estimate: start, end and bytes of every command."""
        return self.folder / "compiler_profile_0.txt"

    @property
    def program(self) -> Path:
        """What a BM1684X would load."""
        return self.folder / f"{NAME}.bmodel"

    def agreement(self) -> list[Agreement]:
        """The simulator's outputs against ONNX Runtime's, in the graph's order."""
        with np.load(self.origin / "reference.npz") as reference, np.load(self.folder / "outputs.npz") as got:
            pairs = list(zip(reference.files, got.files, strict=False))
            shapes = [(reference[a].shape, got[b].shape) for a, b in pairs]
            if len(reference.files) != len(got.files) or any(a != b for a, b in shapes):
                what = f"The simulator's outputs have other shapes than the graph's: {shapes}."
                raise SophonError(what, where=self.folder)
            return [agree(a, reference[a], got[b]) for a, b in pairs]


def agree(name: str, expected: np.ndarray, got: np.ndarray) -> Agreement:
    """Both in float64; the cosine is between the arrays taken as vectors."""
    a, b = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    return Agreement(name, float(np.abs(a - b).max()), float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))


def compile_graph(
    model: onnx.ModelProto, inputs: Arrays, toolchain: Toolchain, *, without: Collection[str] = ()
) -> Compiled:
    """Compiles a graph of fixed shapes for BM1684X in F16 and runs it on the simulator with `inputs`.

    Inputs and outputs that are floating-point stay F16 on the chip, as caches between two steps would.

    Args:
        inputs: by name; what the compiler checks its stages with, and the simulator's input.
        without: of `PASSES`, those to leave out: the compiler's commands are repeated without these options.

    Raises:
        SophonError: a tool failed or found that a stage gives other numbers, or `without` names an unknown pass.
    """
    if unknown := set(without) - set(PASSES):
        raise SophonError(f"There is no pass {sorted(unknown)[0]!r}.", hint=f"Choose from {', '.join(PASSES)}.")

    def stored(key: str, make: Callable[[Path], None]) -> Path:
        return cached_folder(cache_dir() / "sophon" / "compiled" / key, "compiled graph", MEGABYTES, make)

    key = hash_of([VERSION, toolchain.version, *serialise(model, inputs)])
    whole = stored(key, lambda folder: compile_whole(folder, model, inputs, toolchain))
    if not without:
        return Compiled(whole, whole)
    again = f"{key}-{hash_of(sorted(without))}"
    return Compiled(stored(again, lambda folder: compile_less(folder, whole, without, toolchain)), whole)


def hash_of(parts: Iterable[bytes | str]) -> str:
    """16 hexadecimal digits of a hash of these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def serialise(model: onnx.ModelProto, inputs: Arrays) -> list[bytes | str]:
    """What a result depends on, in a form to be hashed."""
    arrays = [(name, str(inputs[name].dtype), str(inputs[name].shape), inputs[name].tobytes()) for name in inputs]
    return [model.SerializeToString(deterministic=True), *(part for array in sorted(arrays) for part in array)]


def compile_whole(folder: Path, model: onnx.ModelProto, inputs: Arrays, toolchain: Toolchain) -> None:
    """Fills `folder` with all stages, the program, its profile, and the outputs of simulator and reference."""
    transform(folder, model, inputs, toolchain)
    deploy(folder, toolchain)
    wanted = (*STAGES.values(), f"{NAME}_in_f32.npz", f"{LOWERED}_tpu_weights.npz", f"{NAME}.bmodel")
    remove_all_but(folder, (*wanted, "reference.npz", "outputs.npz", "compiler_profile_0.txt", "*.log"))


def transform(folder: Path, model: onnx.ModelProto, inputs: Arrays, toolchain: Toolchain) -> None:
    """ONNX -> the compiler's graph, which it checks against ONNX Runtime, and the reference outputs."""
    import onnx

    onnx.save(model, folder / "graph.onnx")
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "reference.npz", **run_onnx(model, inputs))
    arguments = ["--model_name", NAME, "--model_def", "graph.onnx", "--test_input", "inputs.npz"]
    arguments += ["--test_result", f"{NAME}_top.npz", "--mlir", f"{NAME}.mlir"]
    toolchain.run("model_transform", *arguments, log=folder / "transform.log")


def run_onnx(model: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """The graph's outputs by name, from ONNX Runtime in this process."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def deploy(folder: Path, toolchain: Toolchain) -> None:
    """The compiler's graph -> the program, which model_deploy checks stage by stage and runs on the simulator."""
    arguments = ["--mlir", f"{NAME}.mlir", "--quantize", QUANTIZE, "--processor", PROCESSOR]
    arguments += ["--quant_input", "--quant_output", "--debug", "--model", f"{NAME}.bmodel"]
    arguments += ["--test_input", f"{NAME}_in_f32.npz", "--test_reference", f"{NAME}_top.npz"]
    toolchain.run("model_deploy", *arguments, log=folder / "deploy.log")
    (folder / f"{LOWERED}_model_outputs.npz").rename(folder / "outputs.npz")


def compile_less(folder: Path, whole: Path, without: Collection[str], toolchain: Toolchain) -> None:
    """Repeats the commands that model_deploy ran after lowering, less the passes; then runs the simulator."""
    log = folder / "deploy.log"
    for name in (f"{NAME}_in_f32.npz", STAGES["lowered"], f"{LOWERED}_tpu_weights.npz"):
        if (whole / name).exists():  # a graph may have no weights
            shutil.copyfile(whole / name, folder / name)  # the tools write over some of what they read
    for command in leave_out(read_commands(whole / "deploy.log"), without):
        toolchain.run(*command, log=log)
    arguments = ["--input", f"{NAME}_in_f32.npz", "--model", f"{NAME}.bmodel", "--output", "outputs.npz"]
    toolchain.run("model_runner", *arguments, log=log)
    remove_all_but(folder, (*STAGES.values(), "outputs.npz", "compiler_profile_0.txt", "*.log"))


def read_commands(log: Path) -> list[list[str]]:
    """The calls of the compiler proper that model_deploy wrote into its log, from the lowered graph on: three."""
    calls = re.findall(r"^\[Running\]: (tpuc-opt .*)$", log.read_text(encoding="utf-8", errors="replace"), re.M)
    after = [call for call in map(shlex.split, calls) if call[1] != f"{NAME}.mlir"]
    if len(after) != 3:
        raise SophonError(f"model_deploy ran {len(after)} commands after lowering, not 3.", where=log)
    return after


def leave_out(commands: list[list[str]], without: Collection[str]) -> list[list[str]]:
    """The commands without these passes; SophonError if one is in none of them, and leaving it out changes nothing."""
    names = {pass_name(option) for command in commands for option in command}
    if absent := set(without) - names:
        raise SophonError(f"The compiler does not run {sorted(absent)[0]!r}.", hint="Its log has the command lines.")
    return [[option for option in command if pass_name(option) not in without] for command in commands]


def pass_name(option: str) -> str:
    """ "--layer-group=opt=2" -> "layer-group"; an empty text for what is no option."""
    return option.removeprefix("--").split("=")[0] if option.startswith("--") else ""


def remove_all_but(folder: Path, patterns: Collection[str]) -> None:
    """Removes every folder, and every file that fits none of the patterns."""
    matching = {path for pattern in patterns for path in folder.glob(pattern)}
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in matching:
            path.unlink()
