"""`lab`, the bootstrap: a new environment is proven before it takes the place of the old one, whatever fails."""

from __future__ import annotations

import builtins
import os
import sys

import pytest
from stand_ins import plant_env, plant_venv, script, stub_steps, wish_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for interpreters are shell scripts")


def beside(lab, **instead: str | None) -> dict:
    """A new environment that only waits to be put in place; gives its wish."""
    plant_env(lab, lab.NEW, **instead)
    return wish_for(lab)


def test_versions_after_the_installation_are_asserted(lab):
    beside(lab, torch="2.13.1")
    with pytest.raises(lab.WrongVersion, match=r"torch is 2\.13\.1, not"):
        lab.check_environment(wish_for(lab))


def test_torch_and_mindspore_are_imported_in_processes_of_their_own(lab, monkeypatch):
    asked, ran = [], []

    def ask(python, code, *names):
        asked.append(names)
        return {"python": "3.11", **lab.expected_versions(wish_for(lab))}

    beside(lab)
    monkeypatch.setattr(lab, "ask", ask)
    monkeypatch.setattr(lab, "run", ran.append)
    lab.check_environment(wish_for(lab))
    assert ran[0][-5:-3] == ["pip", "check"]
    imports = asked[1:]
    assert any("torch" in names for names in imports)
    assert any("mindspore" in names for names in imports)
    assert not any({"torch", "mindspore"} <= set(names) for names in imports)


def test_cuda_that_came_as_cpu_is_refused(lab, monkeypatch):
    wish = wish_for(lab, "--accelerator", "cuda")
    plant_env(lab, lab.NEW, wish)
    expected = lab.expected_versions(wish)
    monkeypatch.setattr(lab, "run", lambda command: None)
    monkeypatch.setattr(lab, "ask", lambda python, code, *names: None if code == lab.CUDA else expected)
    with pytest.raises(lab.WrongVersion, match="without CUDA"):
        lab.check_environment(wish)


def test_an_environment_that_cannot_be_brought_up_to_date_is_made_anew_once(lab, monkeypatch):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    failures = [lab.BrokenEnvironment("torch does not import")]

    def check(wish):
        if failures:
            raise failures.pop()

    done = stub_steps(lab, monkeypatch, check_environment=check)
    lab.set_up(wish_for(lab), thorough=False)
    assert done.count("make_venv") == 2


def test_a_new_environment_that_does_not_work_is_an_error_not_a_loop(lab, monkeypatch):
    def check(wish):
        raise lab.BrokenEnvironment("torch does not import")

    done = stub_steps(lab, monkeypatch, check_environment=check)
    with pytest.raises(lab.BrokenEnvironment):
        lab.set_up(wish_for(lab), thorough=False)
    assert done.count("make_venv") == 1
    assert not lab.VENV.exists()


FAILURES = ("NoPython", "NoNetwork", "TooLittleDisk", "BrokenEnvironment", "WrongVersion", "InstallFailed", "OSError")


@pytest.mark.parametrize(
    "stamp", ["", "[]", "5", "null", "{", "[" * 100_000, '{"mindspore": "yes"}', '{"accelerator": 1}']
)
def test_a_stamp_that_cannot_be_read_means_that_nothing_is_complete(lab, stamp):
    plant_env(lab, lab.VENV)
    lab.STAMP.write_text(stamp)
    assert lab.read_stamp() == {"complete": False}
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_a_stamp_that_is_a_folder_means_the_same(lab):
    plant_env(lab, lab.VENV)
    lab.STAMP.mkdir()
    assert lab.judge_venv(wish_for(lab)) == "unusable"


def test_an_interpreter_that_does_not_answer_in_utf_8_is_a_broken_one(lab):
    with pytest.raises(lab.BrokenEnvironment):
        lab.ask(script(lab.ROOT / "python", r"printf '\377\376'; exit 1"), lab.LOOK)


def be_a_file(path, elsewhere):
    path.write_text("no folder")


def be_a_link(path, elsewhere):
    (elsewhere / "bin").mkdir(parents=True)
    path.symlink_to(elsewhere)


def be_a_dangling_link(path, elsewhere):
    path.symlink_to(elsewhere / "nowhere")


def be_a_circle(path, elsewhere):
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["VENV", "OLD"])
@pytest.mark.parametrize("kind", [be_a_file, be_a_link, be_a_dangling_link, be_a_circle])
def test_what_is_no_folder_makes_way_and_what_a_link_points_at_stays(lab, tmp_path, kind, name):
    wish, elsewhere = beside(lab), tmp_path / "elsewhere"
    kind(getattr(lab, name), elsewhere)
    lab.put_in_place(wish)
    assert lab.judge_venv(wish) == "ready"
    assert not any(os.path.lexists(path) for path in (lab.OLD, lab.NEW))
    assert elsewhere.exists() == (kind is be_a_link)


@pytest.mark.parametrize("kind", [be_a_file, be_a_dangling_link, be_a_circle])
def test_what_has_the_new_environments_name_makes_way(lab, tmp_path, kind):
    kind(lab.NEW, tmp_path / "elsewhere")
    lab.remove(lab.NEW)
    assert not os.path.lexists(lab.NEW)


STEPS = ("make_venv", "install_uv", "sync_packages", "install_torch", "check_environment", "put_in_place")


@pytest.mark.parametrize("kind", [*FAILURES, "KeyboardInterrupt"])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_wherever_the_old_environment_works_as_before(lab, monkeypatch, capsys, kind, step):
    """A wish for more than there is: whatever way its set-up goes wrong, what was asked for before is still ready."""
    plant_venv(lab, wish_for(lab))
    before = {path: path.read_bytes() for path in lab.VENV.rglob("*") if path.is_file()}

    def fail(wish):
        raise getattr(lab, kind, getattr(builtins, kind, None))("planted")

    stub_steps(lab, monkeypatch, **{"make_venv": lab.make_venv, step: fail})
    monkeypatch.setattr(lab, "find_python", lambda: [sys.executable])
    monkeypatch.setattr(lab, "run", lambda command: None)
    assert lab.main(["test"]) == (130 if kind == "KeyboardInterrupt" else 1)
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert lab.judge_venv(wish_for(lab)) == "ready"
    assert {path: path.read_bytes() for path in lab.VENV.rglob("*") if path.is_file()} == before
    assert (".venv is as it was." in told) == (kind == "KeyboardInterrupt")


@pytest.mark.parametrize("missing", ["find_python", "check_disk"])
def test_python_and_disk_are_looked_at_before_anything_is_removed(lab, monkeypatch, missing):
    plant_venv(lab, {**wish_for(lab), "root": "/elsewhere"})

    def refuse(*arguments, **options):
        raise lab.SetupError(missing)

    monkeypatch.setattr(lab, "find_python", lambda: [sys.executable])
    monkeypatch.setattr(lab, missing, refuse)
    with pytest.raises(lab.SetupError, match=missing):
        lab.make_venv(wish_for(lab))
    assert lab.find_interpreter(lab.VENV)


def test_an_update_is_made_in_a_copy(lab, tmp_path):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    (lab.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    (lab.VENV / "lib").mkdir()
    (lab.VENV / "lib64").symlink_to("lib")
    lab.NEW.mkdir()
    (lab.NEW / "left over").touch()
    lab.make_venv(wish_for(lab))
    assert sorted(path.name for path in lab.NEW.iterdir()) == ["bin", "lab-stamp.json", "lib", "lib64", "pyvenv.cfg"]
    assert (lab.NEW / "lib64").is_symlink()
    assert (lab.NEW / "pyvenv.cfg").read_text().endswith("version = 3.11.7\nrelocatable = true\n")
    assert "relocatable" not in (lab.VENV / "pyvenv.cfg").read_text()


def test_the_new_environment_takes_the_place_of_the_old_one_with_its_scripts(lab):
    plant_venv(lab, {**wish_for(lab), "inputs": "of an older lock"})
    (lab.VENV / "old").touch()
    wish = beside(lab)
    script(lab.NEW / "bin/activate", f"VIRTUAL_ENV={lab.NEW}")
    lab.put_in_place(wish)
    assert lab.judge_venv(wish) == "ready"
    assert f"VIRTUAL_ENV={lab.VENV}\n" in (lab.VENV / "bin/activate").read_text()
    assert os.access(lab.VENV / "bin/activate", os.X_OK)
    assert not (lab.VENV / "old").exists()
    assert not lab.NEW.exists()
    assert not lab.OLD.exists()


def test_an_environment_that_does_not_work_under_its_new_name_gives_the_place_back(lab, monkeypatch):
    plant_venv(lab, wish_for(lab))
    ask = lab.ask

    def refuse(python, code, *names):
        if code == lab.IMPORT:
            raise lab.BrokenEnvironment("planted")
        return ask(python, code, *names)

    beside(lab, torch="2.13.1")
    monkeypatch.setattr(lab, "ask", refuse)
    with pytest.raises(lab.BrokenEnvironment):
        lab.put_in_place(wish_for(lab))
    assert lab.judge_venv(wish_for(lab)) == "ready"


def test_a_kill_between_the_two_renamings_is_mended_by_the_next_call(lab, monkeypatch):
    plant_venv(lab, wish_for(lab))
    lab.VENV.rename(lab.OLD)
    handed = []
    monkeypatch.setattr(lab.os, "execve", lambda *arguments: handed.append(arguments[1]))
    lab.bootstrap(["doctor"])
    assert handed == [[str(lab.VENV / "bin/python"), "-m", "labsupport", "doctor"]]
