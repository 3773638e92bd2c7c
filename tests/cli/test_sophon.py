"""`lab sophon`: what it says of the toolchain that it makes, and of one that was stopped half way."""

from lab_command import invoke

from labsupport import sophon
from labsupport.sophon.toolchain import Toolchain


def test_each_step_is_a_line_and_the_last_says_where_it_is(monkeypatch, tmp_path):
    def make_toolchain(say):
        say("a step [1/2]")
        return Toolchain(tmp_path, "1.2")

    monkeypatch.setattr(sophon, "make_toolchain", make_toolchain)
    done = invoke("sophon")
    assert (done.exit_code, done.output) == (0, f"a step [1/2]\nTPU-MLIR 1.2 is ready: {tmp_path}\n")


def test_ctrl_c_says_what_the_next_call_does(monkeypatch):
    def interrupt(say):
        raise KeyboardInterrupt

    monkeypatch.setattr(sophon, "make_toolchain", interrupt)
    done = invoke("sophon")
    assert done.exit_code == 130
    assert done.stderr.startswith("Stopped. What was fetched is in uv's cache; the next call begins")
