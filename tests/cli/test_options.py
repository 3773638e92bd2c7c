"""Numbers that no option takes."""

import importlib

import pytest
from lab_command import invoke

from labsupport.course import runner


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--timeout", "nan"],
        ["run", "--timeout", "inf"],
        ["run", "--cell-timeout", "nan"],
        ["transcribe", "--max-hours", "nan", "a.wav"],
        ["transcribe", "--max-hours=-inf", "a.wav"],
        ["transcribe", "--logprob-threshold", "nan", "a.wav"],
        ["transcribe", "--no-speech-threshold", "inf", "a.wav"],
        ["transcribe", "--best-of", "1000000000", "a.wav"],
        ["transcribe", "--threads", "100000000", "a.wav"],
        ["transcribe", "--batch", "10000000000", "a.wav"],
        ["transcribe", "--max-channels", "1000000000", "a.wav"],
        ["bench", "engines", "--runs", "1000000000"],
        ["bench", "bark", "--samples", "10000000000"],
        ["bench", "bark", "--rounds", "10000000000"],
    ],
)
def test_numbers_that_are_none_or_that_no_machine_can_do_are_refused(monkeypatch, arguments):
    for module, name in ((runner, "run"), (importlib.import_module("labsupport.whisper.files"), "transcribe_files")):
        monkeypatch.setattr(module, name, lambda *values, **options: pytest.fail("it has begun"))
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Invalid value for" in done.output
