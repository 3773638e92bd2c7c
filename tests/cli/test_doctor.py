"""`lab doctor`: what it prints, and its exit code."""

import json

import pytest
from lab_command import invoke

from labsupport.machine import doctor


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)])
def test_doctor_fails_only_where_a_required_thing_is_missing(monkeypatch, required, code):
    checks = [doctor.Check("a thing", False, "none", "a remedy", required)]
    monkeypatch.setattr(doctor, "examine", lambda online: checks)
    done = invoke("doctor")
    assert done.exit_code == code
    assert "it would take: a remedy" in done.output
    assert ("cannot run without: a thing" if required else "The lab can run here.") in done.output


@pytest.mark.parametrize(("here", "code"), [(True, 0), (False, 1)])
def test_doctor_answers_programs_in_json_with_the_same_exit_code(monkeypatch, here, code):
    checks = [doctor.Check("a thing", here, "x" * 500, "a remedy", required=True)]
    monkeypatch.setattr(doctor, "examine", lambda online: checks)
    done = invoke("doctor", "--json")
    assert done.exit_code == code
    found = json.loads(done.stdout)
    assert (found["ok"], found["lacking"]) == (here, [] if here else ["a thing"])
    assert found["checks"][0]["found"] == "x" * 500


def test_doctor_finds_this_environment_able_and_says_what_a_missing_thing_takes(monkeypatch):
    monkeypatch.setattr(doctor, "accelerators", lambda framework: [])
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "The lab can run here." in done.output
    assert "an NVIDIA GPU with its driver" in done.output
