"""Pieces become answers that the openai package's types take, and that lose no letter."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
    TranslationVerbose,
)

from labsupport.serving import answers
from labsupport.serving.answers import Collected
from labsupport.serving.jobs import Finished, Piece
from labsupport.speech.text import Segment, Word

WORDS = (Word(0.5, 1.0, " One", 0.9), Word(1.0, 1.5, " two.", 0.9))
FINISHED = Finished("de", 61.234567, 2)


def collected() -> Collected:
    found = Collected()
    found.add(Piece(" One two.", (Segment(0.5, 1.5, " One two.", WORDS, -0.1, 1.2, 0.01, 0.0),), 0))
    found.add(Piece(" Three.", (Segment(31.0, 32.0, " Three.", (), -math.inf, math.nan, 0.5, 0.2),), 3000))
    return found


def encode(text: str) -> list[int]:
    return [len(part) for part in text.split()]


def test_json():
    answer = answers.plain(collected(), FINISHED).model_dump()
    assert answer == {"text": "One two. Three.", "usage": {"type": "duration", "seconds": 61.23}}
    Transcription.model_validate(answer, strict=True)


def test_verbose_json_is_openais_type_and_holds_every_number():
    answer = answers.verbose(collected(), FINISHED, "transcribe", ["word", "segment"], encode)
    text = json.dumps(answer.model_dump(exclude_none=True), allow_nan=False)
    parsed = TranscriptionVerbose.model_validate(json.loads(text), strict=True)
    assert (parsed.language, parsed.duration, parsed.text) == ("german", 61.23, "One two. Three.")
    assert [(each.word, each.start, each.end) for each in parsed.words] == [("One", 0.5, 1.0), ("two.", 1.0, 1.5)]
    assert [(each.id, each.seek, each.tokens) for each in parsed.segments] == [(0, 0, [3, 4]), (1, 3000, [6])]
    assert [each.text for each in parsed.segments] == [" One two.", " Three."]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([], {"segments"}), (["segment"], {"segments"}), (["word"], {"words"}),
        (["word", "segment"], {"segments", "words"}),
    ],
)  # fmt: skip
def test_what_is_not_asked_for_is_left_out(wanted, found):
    answer = answers.verbose(collected(), FINISHED, "transcribe", wanted, encode).model_dump(exclude_none=True)
    assert {"segments", "words"} & set(answer) == found


def test_a_translation_is_english():
    answer = answers.verbose(collected(), FINISHED, "translate", [], encode).model_dump(exclude_none=True)
    assert TranslationVerbose.model_validate(answer, strict=True).language == "english"
    assert answer["task"] == "translate"


def test_text_and_subtitles():
    assert answers.as_text(collected(), "text") == "One two. Three.\n"
    assert answers.as_text(collected(), "srt").startswith("1\n00:00:00,500 --> 00:00:01,500\nOne two.\n\n2\n00:00:31")
    assert answers.as_text(collected(), "vtt").startswith("WEBVTT\n\n00:00:00.500 -->")


@given(st.lists(st.text(alphabet=" ab\n\u3000,", max_size=6), max_size=8))
def test_the_pieces_of_a_stream_make_up_its_text(texts):
    found = Collected()
    assert "".join(found.add(Piece(text)) for text in texts) == found.text == "".join(texts).strip()


def test_events_are_openais():
    parse = lambda event: json.loads(event.decode().removeprefix("data: "))  # noqa: E731
    assert answers.delta_event("ä\n").endswith(b"\n\n")
    assert answers.delta_event("ä\n").count(b"\n") == 2
    assert TranscriptionTextDeltaEvent.model_validate(parse(answers.delta_event("ä\n")), strict=True).delta == "ä\n"
    segment = parse(answers.segment_event(3, collected().segments[0]))
    parsed = TranscriptionTextSegmentEvent.model_validate(segment, strict=True)
    assert (parsed.id, parsed.text) == ("3", "One two.")
    assert [each["word"] for each in segment["words"]] == ["One", "two."]
    assert "words" not in parse(answers.segment_event(0, collected().segments[1]))
    assert TranscriptionTextDoneEvent.model_validate(parse(answers.done_event(collected(), FINISHED)), strict=True)
