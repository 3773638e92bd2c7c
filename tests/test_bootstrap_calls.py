"""`lab`, the bootstrap, as a process: killed half-way, called twice at once, and handing over to what it made."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from stand_ins import plant_env, plant_venv, stub_steps, wish_for

from labsupport.base.paths import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for interpreters are shell scripts")


# A driver for a process of its own: the real venv step and lock, with a slow second step in place of uv.
DRIVER = """
import sys, time
sys.path.insert(0, {helpers!r}); sys.dont_write_bytecode = True
from pathlib import Path; from stand_ins import load_lab
lab = load_lab(Path({root!r}))
lab.expected_versions = lambda wish: {{}}
lab.find_python = lambda: [sys.executable]
lab.SUITABLE = ("%d.%d" % sys.version_info[:2],)
def slow(wish):
    (lab.NEW / "half-written").write_text("x"); time.sleep(float(sys.argv[1])); (lab.NEW / "half-written").unlink()
make = lab.make_venv
lab.run = lambda command: lab.subprocess.run([*command, "--without-pip"], check=True)
lab.IMPORT = "print('[]')"
lab.STEPS = [("venv", make), ("slow", slow), ("place", lab.put_in_place)]
lab.check_platform = lambda: None
lab.check_disk = lambda wish, here=None: None
sys.exit(lab.main(["setup"] if len(sys.argv) < 3 else sys.argv[2:]))
"""


def start_driver(lab, tmp_path, seconds: float) -> subprocess.Popen:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(helpers=str(Path(__file__).parent / "helpers"), root=str(tmp_path)))
    command = [sys.executable, str(driver), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_what_a_kill_left_is_repaired_by_the_next_call(lab, tmp_path):
    first = start_driver(lab, tmp_path, 60)
    wait_for(lab.NEW / "half-written", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not lab.VENV.exists()
    second = start_driver(lab, tmp_path, 0)
    told = second.communicate(timeout=30)[1]
    assert second.returncode == 0, told
    assert lab.read_stamp()["complete"] is True
    assert not (lab.VENV / "half-written").exists()
    assert subprocess.run([lab.VENV / "bin/python", "-c", ""]).returncode == 0


def test_a_second_call_waits_for_the_first(lab, tmp_path):
    first = start_driver(lab, tmp_path, 1.5)
    wait_for(lab.NEW / "half-written", first)
    second = start_driver(lab, tmp_path, 0)
    told = second.communicate(timeout=30)[1]
    assert first.wait(timeout=0) == 0, "the second finished while the first was at work"
    assert (second.returncode, "waiting for it" in told) == (0, True)
    first.communicate()


@pytest.mark.slow
def test_a_set_up_that_is_killed_at_random_points_never_breaks_the_environment(lab, tmp_path, kill_times):
    assert start_driver(lab, tmp_path, 0).wait(timeout=60) == 0
    for seconds in kill_times(2.5):
        again = start_driver(lab, tmp_path, 0.3)
        time.sleep(seconds)
        os.killpg(again.pid, signal.SIGKILL)
        again.communicate()
        lab.restore_old()  # as the next call begins
        assert lab.read_stamp()["complete"] is True
        assert subprocess.run([lab.VENV / "bin/python", "-c", ""]).returncode == 0
    last = start_driver(lab, tmp_path, 0)
    assert last.wait(timeout=60) == 0, last.communicate()[1]
    assert {path.name for path in tmp_path.glob(".venv*")} == {".venv", ".venv.lock"}


def install_with_pip(python: Path, wheel: Path) -> list:
    return [python, "-I", "-m", "pip", "install", "--no-index", "--no-deps", wheel]


def install_with_uv(python: Path, wheel: Path) -> list:
    """By the uv of the tests' own environment, which `lab` brings."""
    options = ["--offline", "--no-config", "--no-deps", "--python", python]
    return [sys.executable, "-I", "-m", "uv", "pip", "install", *options, wheel]


def write_wheel(folder: Path) -> Path:
    """A package in place of labsupport: its command says which environment runs it."""
    wheel, info = folder / "labsupport-1.0-py3-none-any.whl", "labsupport-1.0.dist-info"
    files = {
        "labsupport.py": "import sys\ndef main(): print(sys.prefix)\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: labsupport\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nlabsupport = labsupport:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, content)
    return wheel


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("install", [install_with_pip, install_with_uv])
def test_the_scripts_of_a_real_environment_run_after_it_was_renamed(lab, tmp_path, monkeypatch, install):
    """Made anew, then brought up to date in a copy; pip names the interpreter in them, uv leaves that out."""
    if install is install_with_uv and importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed in this environment")
    monkeypatch.setattr(lab, "expected_versions", lambda wish: {})
    monkeypatch.setattr(lab, "find_python", lambda: [sys.executable])
    monkeypatch.setattr(lab, "check_disk", lambda wish, here=None: None)
    monkeypatch.setattr(lab, "SUITABLE", (".".join(map(str, sys.version_info[:2])),))
    wish, wheel, scripts = wish_for(lab, "--without", "mindspore"), write_wheel(tmp_path), lab.VENV / "bin"
    for _ in range(2):
        lab.make_venv(wish)
        subprocess.run(install(lab.find_interpreter(lab.NEW), wheel), check=True, capture_output=True)
        lab.put_in_place(wish)
        assert (lab.NEW.exists(), lab.OLD.exists()) == (False, False)
        assert output_of(scripts / "labsupport") == str(lab.VENV)
        assert str(lab.VENV) in output_of(scripts / "pip", "--version")
        activated = output_of("sh", "-c", f". {scripts}/activate && command -v labsupport")
        assert activated == str(scripts / "labsupport")


def output_of(*command) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_step_ends_when_the_set_up_is_killed(lab, tmp_path):
    (tmp_path / "labsupport" / "machine").mkdir(parents=True)
    shutil.copy(ROOT / "labsupport" / "machine" / "children.py", tmp_path / "labsupport" / "machine")
    pid = tmp_path / "pid"
    code = f"from stand_ins import load_lab; from pathlib import Path; load_lab(Path({str(tmp_path)!r})).run("
    code += f"['sh', '-c', 'echo $$ > {pid}.part; mv {pid}.part {pid}; sleep 300'])"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent / 'helpers'}"}
    setup = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
    wait_for(pid, setup)
    setup.kill()
    setup.communicate()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        assert time.monotonic() < deadline, "the step goes on"
        time.sleep(0.05)


# What must not be executed

PLANTED = ("__future__", "contextlib", "glob", "hashlib", "json", "pathlib", "platform", "shutil", "subprocess")


@pytest.mark.parametrize("start", [[], [sys.executable]], ids=["./lab", "python lab"])
@pytest.mark.parametrize("path", [None, os.pathsep, "."], ids=["no PYTHONPATH", "empty", "."])
@pytest.mark.parametrize("beside", [True, False])
def test_modules_in_the_working_folder_are_never_executed(lab, tmp_path, start, path, beside):
    """In the folder of `lab`, or in the one where it is called."""
    plant_venv(lab, wish_for(lab))
    folder = lab.ROOT if beside else tmp_path / "hostile"
    folder.mkdir(exist_ok=True)
    for name in PLANTED + (() if start and path else ("sitecustomize",)):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": path} if path else {}
    done = subprocess.run([*start, lab.ROOT / "lab", "run"], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, "-m labsupport run" in done.stdout) == (7, True), done.stderr
    assert not (tmp_path / "executed").exists()
    assert done.stdout.startswith("|"), "PYTHONPATH would mean the working folder"


# Handing over


def call_lab(lab, *argv: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, lab.ROOT / "lab", *argv], capture_output=True, text=True, env={**os.environ, **env}
    )


def test_a_ready_environment_is_handed_over_to_within_a_second(lab):
    plant_venv(lab, wish_for(lab, "--without", "mindspore"))
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = call_lab(lab, "run", "00", "--fast")
        seconds.append(time.monotonic() - start)
    assert done.stdout.strip().endswith("|-m labsupport run 00 --fast")
    assert done.returncode == 7
    assert min(seconds) < 1


def test_bytecode_is_stored_in_the_labs_own_environment_alone(lab, tmp_path, monkeypatch):
    environments = []
    monkeypatch.setattr(lab.os, "execve", lambda *arguments: environments.append(arguments[2]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    plant_venv(lab, wish_for(lab))
    lab.bootstrap(["doctor"])
    monkeypatch.setenv("LAB_ENV", str(plant_env(lab, tmp_path / "mine").parent.parent))
    lab.bootstrap(["doctor"])
    assert ["PYTHONDONTWRITEBYTECODE" in environment for environment in environments] == [False, True]


@pytest.mark.parametrize("argv", [["--help"], ["setup", "--help"], ["run", "-h"], ["--without", "mindspore", "--help"]])
def test_asking_for_help_installs_nothing(lab, argv):
    done = call_lab(lab, *argv)
    assert (done.returncode, "./lab setup" in done.stdout, lab.VENV.exists()) == (0, True, False)


def test_help_for_setup_changes_nothing_in_a_ready_environment(lab):
    plant_venv(lab, wish_for(lab))
    done = call_lab(lab, "setup", "--help")
    assert (done.returncode, "check and repair it" in done.stdout, done.stderr) == (0, True, "")
    assert call_lab(lab, "run", "--help").stdout.strip().endswith("|-m labsupport run --help")


def test_a_prepared_environment_is_used_as_it_is(lab, tmp_path):
    plant_env(lab, tmp_path / "mine", torch="2.11.0", mindspore="2.6.0")
    done = call_lab(lab, "doctor", LAB_ENV=str(tmp_path / "mine"))
    assert done.stdout.startswith(str(tmp_path))  # labsupport is found through PYTHONPATH
    assert done.stdout.strip().endswith("|-m labsupport doctor")
    assert "torch 2.11.0" in done.stderr
    assert "mindspore 2.6.0" in done.stderr
    assert not lab.VENV.exists()


@pytest.mark.parametrize(
    ("argv", "instead", "told"),
    [
        (["doctor"], {"transformers": None}, "LAB_ENV needs"),
        (["doctor"], {"torch": None, "mindspore": None}, "LAB_ENV needs"),
        (["doctor"], {"numpy": "2.3.0"}, "numpy 2"),
        (["--without", "mindspore", "doctor"], {}, "used as it is"),
        (["test"], {"nbval": None}, "pip install --group test"),
    ],
)
def test_a_prepared_environment_that_cannot_work_is_refused(lab, tmp_path, argv, instead, told):
    plant_env(lab, tmp_path / "mine", **instead)
    done = call_lab(lab, *argv, LAB_ENV=str(tmp_path / "mine"))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_mindspore_alone_is_enough_for_a_prepared_environment(lab, tmp_path):
    plant_env(lab, tmp_path / "mine", torch=None)
    assert call_lab(lab, "doctor", LAB_ENV=str(tmp_path / "mine")).returncode == 7


def test_a_folder_that_cannot_be_written_is_an_error_for_people(lab, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(lab.VENV))

    monkeypatch.setattr(lab.Path, "open", refuse)
    assert lab.main(["setup"]) == 1
    assert f"Permission denied\n  where: {lab.VENV}" in capsys.readouterr().err


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_stopping_the_installation_says_what_the_next_call_does(lab, monkeypatch, capsys):
    stub_steps(lab, monkeypatch, make_venv=interrupt)
    assert lab.main(["setup"]) == 130
    stopped = "Stopped. There is no .venv yet. What came through is not downloaded again."
    assert capsys.readouterr().err.splitlines()[-1] == stopped


@pytest.mark.parametrize("step", ["read_stamp", "judge_venv", "try_lock"])
def test_stopping_it_before_promises_nothing(lab, monkeypatch, capsys, step):
    monkeypatch.setattr(lab, step, interrupt)
    assert lab.main(["setup"]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_what_uv_and_the_bootstrap_print_holds_no_secret(lab, monkeypatch, capsys):
    (lab.ROOT / "labsupport" / "base").mkdir(parents=True)
    shutil.copy(ROOT / "labsupport" / "base" / "masking.py", lab.ROOT / "labsupport" / "base")
    monkeypatch.setenv("UV_INDEX_URL", "https://tom:hunter%40222@index.example/simple")
    monkeypatch.setenv("INDEX_TOKEN", "abcdef-secret")
    uv = "echo Looking at $UV_INDEX_URL with $INDEX_TOKEN, and hunter@222; echo 403 for https://a:bcdefg@index.example"
    uv += "; exit 2"
    stub_steps(lab, monkeypatch, make_venv=lambda wish: lab.run(["sh", "-c", uv, "https://a:bcdefg@index.example"]))
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # `main` wraps it
    assert lab.main(["setup"]) == 1
    said = capsys.readouterr().err
    assert "Looking at https://***@index.example/simple with ***, and ***" in said
    assert "An installation step failed." in said
    assert not any(secret in said for secret in ("hunter", "secret", "bcdefg"))


def test_the_masking_that_the_bootstrap_loads_runs_on_an_old_python():
    source = (ROOT / "labsupport" / "base" / "masking.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "__future__" in modules  # its annotations are not evaluated
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
