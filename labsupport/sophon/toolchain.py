"""TPU-MLIR in its own environment under the cache folder: Python 3.10, and what the wheel needs to run here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.errors import NotAvailable, SophonError
from labsupport.base.paths import ROOT, atomic_write, cache_dir, read_toml, require_checkout
from labsupport.machine.python310 import candidate_pythons, clean_environment, find_uv, is_python310
from labsupport.sophon.processes import run_tool

GIGABYTES = 2.5  # the environment, and what is fetched for it
SECONDS = 1800  # that a tool or a step of the installation may take
# The bundled C library is Ubuntu 22.04's; beside another system's loader it crashes whatever loads it.
FOREIGN_LIBRARIES = ("libc.so.6", "libm.so.6", "libpthread.so.0")
# torch (a gigabyte) is imported for this one line, which copies an array to a tensor and back.
TORCH_IMPORT, TORCH_USE = "import torch\n", "torch.tensor(inputs[name]).numpy()"


@dataclass(frozen=True)
class Toolchain:
    """A finished environment. `folder` holds it; `version` is TPU-MLIR's."""

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def package(self) -> Path:
        return self.folder / "lib" / "python3.10" / "site-packages" / "tpu_mlir"

    def run(self, tool: str, *arguments: str | Path, log: Path, seconds: float = SECONDS) -> None:
        """Runs one of the tools, such as model_transform, in its log's folder; errors as for `run_tool`."""
        command = [self.folder / "bin" / tool, *arguments]
        run_tool(command, folder=log.parent, log=log, seconds=seconds, env=self.environment())

    def environment(self) -> dict[str, str]:
        """Variables for the tools, which call each other through `python3`: theirs must be the first on the path."""
        env = clean_environment()
        libraries = str(self.package / "lib" / "third_party")
        env.setdefault("OMP_NUM_THREADS", "1")  # they would take four, and several may run at once
        return {**env, "PATH": f"{self.folder / 'bin'}{os.pathsep}{env['PATH']}", "LD_LIBRARY_PATH": libraries}


def read_pins() -> dict:
    """[tool.sophon] of pyproject.toml: `tpu_mlir`'s version, and `packages`, all others, each pinned exactly."""
    require_checkout("What the TPU compiler needs")
    return read_toml(ROOT / "pyproject.toml")["tool"]["sophon"]


def toolchain_folder() -> Path:
    """The folder for the environment of the present pins, which may not exist yet."""
    pins = read_pins()
    key = hashlib.sha256(json.dumps(pins).encode()).hexdigest()[:8]
    return cache_dir() / "sophon" / f"tpu_mlir-{pins['tpu_mlir']}-{key}"


def find_toolchain() -> Toolchain | None:
    """The environment, if it was finished: `install` writes finished.json last, and the interpreter is still there."""
    found = Toolchain(toolchain_folder(), read_pins()["tpu_mlir"])
    return found if (found.folder / "finished.json").is_file() and found.python.exists() else None


def make_toolchain(say: Callable[[str], None] = lambda text: None) -> Toolchain:
    """The environment, made now if it is not there (300 MB to fetch, 2 GB on disk).

    An unfinished one is removed first; what uv had fetched is still in uv's cache.

    Raises:
        NotAvailable: not Linux on x86-64, no Python 3.10, too little disk, or an installation step failed or took too
            long.
        SophonError: the package is not what the patches here were written for, or does not compile a graph.
    """
    from filelock import FileLock

    check_platform()
    folder = toolchain_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if found := find_toolchain():
            return found
        check_disk(folder.parent)
        python = find_python310()
        shutil.rmtree(folder, ignore_errors=True)
        return install(folder, python, say)


def install(folder: Path, python: str, say: Callable[[str], None]) -> Toolchain:
    """The steps; only with finished.json, written at the end, does `find_toolchain` find the environment."""
    pins = read_pins()
    made = Toolchain(folder, pins["tpu_mlir"])
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)

    def uv(*arguments: str | Path) -> None:
        command = [*require_uv(), *arguments, "--no-config"]
        try:
            run_tool(command, folder=folder.parent, log=log, seconds=SECONDS, env=clean_environment())
        except SophonError as error:
            hint = "Check that the package index can be reached; the next call uses what was fetched."
            raise NotAvailable(f"TPU-MLIR could not be installed. {error.what}", where=log, hint=hint) from error

    say(f"[1/4] An environment with Python 3.10 ({python})")
    uv("venv", "--python", python, folder)
    say(f"[2/4] TPU-MLIR {made.version} and what it needs: 300 MB to fetch")
    wanted = [f"tpu_mlir=={made.version}", *pins["packages"]]
    uv("pip", "install", "--python", made.python, "--no-deps", "--only-binary", ":all:", *wanted)
    say("[3/4] Making it run on this system, without torch")
    set_aside_libraries(made.package / "lib" / "third_party")
    drop_torch(made.package / "python" / "transform" / "OnnxOpt.py")
    say("[4/4] Compiling a small graph and running it on the simulator")
    check_toolchain(made, folder.with_name(f"{folder.name}.check"))
    with atomic_write(folder / "finished.json") as part:
        part.write_text(json.dumps({"tpu_mlir": made.version, "python": python}), encoding="utf-8")
    return made


def check_platform() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        here = f"{platform.system()} on {platform.machine()}"
        hint = "Notebook 08 shows the stored results."
        raise NotAvailable("TPU-MLIR has a build for Linux on x86-64 alone.", where=here, hint=hint)


def check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < GIGABYTES * 1e9:
        hint = "Free some, or set LAB_CACHE to a folder on another disk."
        raise NotAvailable(f"Only {free / 1e9:.1f} GB free; TPU-MLIR needs {GIGABYTES}.", where=folder, hint=hint)


def require_uv() -> list[str]:
    """uv's command; raises NotAvailable where there is none."""
    if uv := find_uv():
        return uv
    raise NotAvailable("uv, the installer, was not found.", hint="Run `./lab setup`.")


def find_python310() -> str:
    """The path of a Python 3.10 that starts."""
    tried = []
    for candidate in candidate_pythons():
        tried.append(candidate)
        if is_python310(candidate):
            return candidate
    raise NotAvailable(
        "TPU-MLIR needs Python 3.10, and none was found.",
        where=", ".join(tried) or "pyenv, uv, and the path",
        hint="Install one: pyenv install 3.10 | uv python install 3.10 | apt install python3.10 (Ubuntu 22.04)",
    )


def set_aside_libraries(folder: Path) -> None:
    """Moves the bundled C library out of the loader's way."""
    aside = folder / "set_aside"
    aside.mkdir(exist_ok=True)
    for name in FOREIGN_LIBRARIES:
        if not (folder / name).exists():
            raise SophonError(f"TPU-MLIR's wheel does not bundle {name}.", where=folder)
        (folder / name).rename(aside / name)


def drop_torch(source: Path) -> None:
    """Makes the ONNX reader copy an array with NumPy, the only thing for which it imports torch."""
    text = source.read_text(encoding="utf-8")
    if text.count(TORCH_IMPORT) != 1 or text.count(TORCH_USE) != 1:
        raise SophonError("TPU-MLIR's ONNX reader does not use torch where this patch expects it.", where=source)
    text = text.replace(TORCH_IMPORT, "").replace(TORCH_USE, "np.array(inputs[name])")
    with atomic_write(source) as part:  # a new file: the old one may be a hard link into uv's cache
        part.write_text(text, encoding="utf-8")


def check_toolchain(toolchain: Toolchain, folder: Path) -> None:
    """Compiles a graph of one matrix product and runs it on the simulator.

    The first run also links the simulator of this chip into place, which two runs at once could not do.
    """
    import onnx

    from labsupport.graphs.builder import Graph

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    g = Graph("check", {})
    a, b = (g.input(name, np.float32, (4, 4)) for name in "ab")
    g.output(g.op("MatMul", a, b, name="product"), "c", np.float32, (4, 4))
    onnx.save(g.finish(), folder / "c.onnx")
    transform = "--model_name check --model_def c.onnx --mlir check.mlir"
    deploy = "--mlir check.mlir --quantize F16 --processor bm1684x --gen_test_input --model check.bmodel"
    try:
        for tool, arguments in (("model_transform", transform), ("model_deploy", deploy)):
            toolchain.run(tool, *arguments.split(), log=folder / "log", seconds=300)
        if not (folder / "check.bmodel").is_file():
            raise SophonError("model_deploy wrote no program.", where=folder)
    except SophonError as error:
        raise SophonError(f"The toolchain does not work here. {error.what}", where=toolchain.folder) from error
    shutil.rmtree(folder)
