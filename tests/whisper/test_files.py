"""Several files in a row, and each form of a transcript."""

import json
from pathlib import Path

import pytest

from labsupport.base.errors import TextError
from labsupport.base.paths import AUDIO
from labsupport.speech.text import Segment, Transcript
from labsupport.whisper.files import format_transcript, transcribe_files

TWO = Transcript(" One. Two.", [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")], "en")


class FakeTranscriber:
    def transcribe(self, samples, **options):
        self.options = options
        return TWO


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path):
    transcripts, errors, transcriber = [], [], FakeTranscriber()
    files = [tmp_path / "missing.wav", AUDIO / "jfk.flac", Path("no.mp3")]
    assert transcribe_files(files, transcriber, transcripts.append, errors.append, beams=2) == 2
    assert transcripts == [TWO]
    assert "missing.wav" in str(errors[0])
    assert transcriber.options == {"beams": 2}


@pytest.mark.parametrize(
    ("form", "timestamps", "expected"),
    [
        ("text", False, "One. Two."),
        ("text", True, "[   0.00 -    1.50]  One.\n[   1.50 -    3.00]  Two."),
        ("srt", False, "00:00:01,500 --> 00:00:03,000"),
        ("vtt", True, "WEBVTT"),
    ],
)
def test_every_form(form, timestamps, expected):
    assert expected in format_transcript(TWO, form, timestamps)


def test_json_holds_the_segments_and_an_unknown_form_is_refused():
    assert "Two." in json.dumps(json.loads(format_transcript(TWO, "json")))
    with pytest.raises(TextError):
        format_transcript(TWO, "pdf")
