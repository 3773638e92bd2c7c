"""`lab live`: a microphone that is not there, and a file that is played."""

import sys

import pytest
from lab_command import invoke

from labsupport.base.paths import AUDIO


def test_without_a_microphone_the_command_says_what_to_do(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # as if it were not installed
    done = invoke("live")
    assert "libportaudio2" in str(done.exception)


@pytest.mark.weights
@pytest.mark.slow
def test_a_file_is_played_and_written_down():
    done = invoke("live", AUDIO / "jfk.flac", "--speed", 4, "--model", "tiny.en")
    assert done.exit_code == 0
    assert "what you can do for your country." in " ".join(done.stdout.split())
