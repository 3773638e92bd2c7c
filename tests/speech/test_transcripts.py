"""Transcripts as files: subtitles against their grammar, JSON against its, both for any text and any time."""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import TextError
from labsupport.speech.text import Segment, Transcript, Word
from labsupport.speech.transcripts import (
    SUFFIXES,
    describe,
    merge_channels,
    one_line,
    render,
    render_lines,
    write_json,
)

TIME = {form: rf"(\d{{2,}}):([0-5]\d):([0-5]\d){point}(\d{{3}})" for form, point in (("srt", ","), ("vtt", r"\."))}
STAMP = re.compile(f"<{TIME['vtt']}>")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
TWO = Transcript(" One. Two.", [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")], "en", 0.9, 3.0)


def milliseconds(*groups: str) -> int:
    hours, minutes, seconds, rest = map(int, groups)
    return rest + 1000 * (seconds + 60 * (minutes + 60 * hours))


def parse(subtitles: str, form: str) -> list[tuple[int, int, str]]:
    """A strict reader: gives (start, end) in milliseconds and the payload of each cue, or fails."""
    if form == "vtt":
        assert subtitles.startswith("WEBVTT\n\n")
        subtitles = subtitles.removeprefix("WEBVTT\n\n")
    assert subtitles == "" or subtitles.endswith("\n\n")
    cues = []
    for number, cue in enumerate(subtitles.split("\n\n")[:-1], 1):
        lines = cue.split("\n")
        if form == "srt":
            assert lines.pop(0) == str(number)
        times, payload = lines
        match = re.fullmatch(f"{TIME[form]} --> {TIME[form]}", times)
        assert match, times
        assert "-->" not in payload
        assert not CONTROL.search(payload)
        cues.append((milliseconds(*match.groups()[:4]), milliseconds(*match.groups()[4:]), payload))
    return cues


def parse_payload(start: int, end: int, payload: str) -> str:
    """The text of a WebVTT cue of classes and time stamps (sections 4.2.2 and 6.4 of its standard), or fails."""
    piece = rf"(?:[^<>&]|&(?:amp|lt|gt);|{STAMP.pattern}|<c>(?:[^<>&]|&(?:amp|lt|gt);)*</c>)*"
    assert re.fullmatch(piece, payload), payload
    stamps = [start, *(milliseconds(*match.groups()) for match in STAMP.finditer(payload)), end]
    assert all(before < after for before, after in pairwise(stamps)), (start, end, payload)
    return html.unescape(re.sub("<[^>]*>", "", payload))


@st.composite
def transcripts(draw) -> list[Segment]:
    """Segments in order, with any text, up to about 100 hours."""
    times = sorted(draw(st.lists(st.floats(0, 360_000), min_size=2, max_size=12)))
    spoken = st.text(max_size=20) | st.sampled_from(["a --> b", "x ---> y", "<i>&amp;</i>", "two\n\nlines", "WEBVTT"])
    return [Segment(start, end, draw(spoken)) for start, end in pairwise(times)]


@st.composite
def timed_segments(draw) -> Segment:
    """A segment with words, whose times may be in any order and outside of it, as a model's mistakes would be."""
    times = st.floats(0, 10)
    texts = st.text(max_size=6).map(lambda text: f" {text}") | st.sampled_from([" <c>", " &", " a-->b", "\n", " "])
    words = tuple(Word(draw(times), draw(times), text, 1.0) for text in draw(st.lists(texts, max_size=6)))
    start = draw(times)
    return Segment(start, start + draw(times), "".join(word.text for word in words), words)


# --- subtitles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["srt", "vtt"])
@given(segments=transcripts())
def test_subtitles_can_be_read_back(form, segments):
    cues = parse(render(segments, form), form)
    shown = [segment for segment in segments if segment.text.split()]
    assert len(cues) == len(shown)
    for (start, end, _), segment in zip(cues, shown, strict=True):
        assert abs(start - segment.start * 1000) <= 0.5001
        assert abs(end - segment.end * 1000) <= 1.5001
        assert start < end
    assert all(before[0] <= after[0] for before, after in pairwise(cues))


def read_with_ffmpeg(subtitles: str, form: str) -> set[tuple[int, int]]:
    """(start, end) in milliseconds of the cues, as FFmpeg reads them: equal ones once."""
    with av.open(io.BytesIO(subtitles.encode()), format={"vtt": "webvtt"}.get(form, form)) as container:
        found = [packet for packet in container.demux() if packet.pts is not None]
        return {
            (
                round(packet.pts * packet.time_base * 1000),
                round((packet.pts + packet.duration) * packet.time_base * 1000),
            )
            for packet in found
        }


@pytest.mark.parametrize("form", ["srt", "vtt"])
@given(segments=transcripts())
def test_ffmpeg_finds_every_cue_at_its_time(form, segments):
    subtitles = render(segments, form)
    wanted = {(start, end) for start, end, _ in parse(subtitles, form)}
    assert (read_with_ffmpeg(subtitles, form) if wanted else set()) == wanted


@given(segments=transcripts())
def test_vtt_gives_back_the_words(segments):
    cues = parse(render(segments, "vtt"), "vtt")
    wanted = [one_line(segment.text) for segment in segments if segment.text.split()]
    assert [parse_payload(*cue) for cue in cues] == wanted


@given(segment=timed_segments())
def test_karaoke_times_increase_inside_their_cue_whatever_the_model_says(segment):
    cues = parse(render([segment], "vtt"), "vtt")
    assert len(cues) == bool(segment.text.split())
    for cue in cues:
        assert parse_payload(*cue).split() == one_line(segment.text).split()


def test_karaoke_looks_as_players_expect():
    times = [(0.5, 0.7, " One"), (0.4, 0.9, " <two>"), (0.95, 1.1, ","), (1.2, 9.0, " three"), (9.5, 9.6, " four")]
    segment = Segment(0.5, 2.0, " One <two>, three four", tuple(Word(*each, 1.0) for each in times))
    line = render([segment], "vtt").splitlines()[3]
    assert line == "<c>One</c> <c>&lt;two&gt;</c><00:00:00.950><c>,</c> <00:00:01.200><c>three</c> <c>four</c>"
    assert "<c>" not in render([segment], "srt")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "00:00:00"),
        (0.0004, "00:00:00"),
        (1.2345, "00:00:01"),
        (59.9996, "00:01:00"),
        (3599.9996, "01:00:00"),
        (360_000, "100:00:00"),
    ],
)
def test_rounding_carries_into_minutes_and_hours(seconds, shown):
    assert render([Segment(seconds, seconds + 1, "x")], "vtt").split("\n")[2].startswith(shown + ".")


def test_srt_looks_as_players_expect():
    segments = [Segment(0.0, 2.5, " And so,"), Segment(2.5, 2.6, "  "), Segment(2.6, 61.04, " ask not.")]
    assert render(segments, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\nAnd so,\n\n2\n00:00:02,600 --> 00:01:01,040\nask not.\n\n"
    )


@pytest.mark.parametrize(
    ("form", "broken"),
    [
        ("srt", "1\n00:00:59,1000 --> 00:01:01,040\nwords\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na --> b\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na\x1b[31m\n\n"),
    ],
)
def test_a_strict_reader_refuses_what_render_avoids(form, broken):
    with pytest.raises((AssertionError, ValueError)):
        parse(broken, form)


@pytest.mark.parametrize(
    "payload", ["<00:00:02.000><c>late</c>", "<00:00:00.500>a<00:00:00.500>b", "<c>a", "a < b", "<b>a</b>"]
)
def test_a_strict_reader_refuses_a_wrong_karaoke(payload):
    with pytest.raises(AssertionError):
        parse_payload(0, 1500, payload)


# --- text and tables -------------------------------------------------------------------------------------------------


def test_text_has_a_line_for_each_segment():
    assert render(TWO.segments, "text") == "One.\nTwo.\n"
    assert render(TWO.segments, "text", timestamps=True) == "[   0.00 -    1.50]  One.\n[   1.50 -    3.00]  Two.\n"
    assert render_lines([(None, TWO)]) == "One. Two.\n"


@given(segments=transcripts())
def test_a_table_has_three_columns_and_a_row_for_each_segment(segments):
    head, *rows = render(segments, "tsv").removesuffix("\n").split("\n")
    assert head == "start\tend\ttext"
    assert [row.split("\t") for row in rows] == [
        [str(round(s.start * 1000)), str(round(s.end * 1000)), one_line(s.text)] for s in segments
    ]


@given(text=st.text())
def test_no_control_character_comes_through(text):
    line = one_line(text)
    assert not CONTROL.search(line)
    assert "\n" not in line
    assert len(line.splitlines()) <= 1


def test_a_model_that_writes_escape_sequences_does_not_reach_the_terminal():
    assert one_line(" a\x1b[2J\tb\r\nc\x9b") == "a\ufffd[2J b c\ufffd"


def test_no_segments_are_no_error():
    forms = ("text", "srt", "vtt", "tsv")
    assert [render([], form) for form in forms] == ["", "", "WEBVTT\n\n", "start\tend\ttext\n"]


def test_an_unknown_form_has_an_error_that_names_the_known_ones():
    with pytest.raises(TextError) as refused:
        render([], "docx")
    assert refused.value.hint == "Known: text, srt, vtt, tsv."
    assert set(SUFFIXES) == {"text", "srt", "vtt", "tsv", "json"}


# --- channels --------------------------------------------------------------------------------------------------------


def test_channels_are_labelled_and_in_the_order_of_their_times():
    late = replace(TWO, segments=[replace(segment, start=segment.start + 1) for segment in TWO.segments])
    assert render_lines([(1, TWO), (2, late)]) == "Channel 1: One. Two.\nChannel 2: One. Two.\n"
    assert [(s.start, s.text) for s in merge_channels([(1, TWO), (2, late)])] == [
        (0.0, "Channel 1: One."), (1.0, "Channel 2: One."), (1.5, "Channel 1: Two."), (2.5, "Channel 2: Two."),
    ]  # fmt: skip
    assert merge_channels([(None, TWO)]) == TWO.segments


def test_the_words_of_a_channel_have_its_label_once():
    words = (Word(0.0, 0.5, " One", 1.0), Word(0.6, 0.7, " two", 1.0))
    spoken = replace(TWO, segments=[Segment(0.0, 1.5, " One two", words)])
    payload = render(merge_channels([(1, spoken)]), "vtt").splitlines()[3]
    assert payload == "<c>Channel 1: One</c> <00:00:00.600><c>two</c>"


# --- JSON ------------------------------------------------------------------------------------------------------------


def read_json(content: str):
    return json.loads(content, parse_constant=lambda constant: pytest.fail(constant))


@given(segments=transcripts())
def test_json_loses_nothing(segments):
    (document,) = describe("a.wav", [(None, replace(TWO, segments=segments))])
    stored = read_json(write_json(document))["segments"]
    assert [segment["id"] for segment in stored] == list(range(len(segments)))
    assert [(s["start"], s["end"], s["text"]) for s in stored] == [
        (pytest.approx(s.start, abs=1e-4), pytest.approx(s.end, abs=1e-4), s.text.strip()) for s in segments
    ]


def test_json_has_whispers_fields_and_no_infinity():
    word = Word(0.1, 0.4, " One.", float("nan"))
    segment = replace(TWO.segments[0], avg_logprob=float("-inf"), word_timings=(word,))
    (document,) = describe("a.wav", [(None, replace(TWO, segments=[segment]))])
    assert read_json(write_json(document)) == {
        "file": "a.wav", "language": "en", "language_probability": 0.9, "duration": 3.0, "text": "One. Two.",
        "segments": [{
            "id": 0, "start": 0.0, "end": 1.5, "text": "One.", "avg_logprob": None, "compression_ratio": 0.0,
            "no_speech_prob": 0.0, "temperature": 0.0,
            "words": [{"start": 0.1, "end": 0.4, "word": " One.", "probability": None}],
        }],
    }  # fmt: skip
    assert [each["channel"] for each in describe("a.wav", [(1, TWO), (2, TWO)])] == [1, 2]


def test_whole_numbers_and_numpys_are_numbers():
    import numpy as np

    segment = Segment(np.float32(1.5), 2, "x", avg_logprob=np.float64(-0.25))
    fields = read_json(write_json(describe("a", [(None, replace(TWO, segments=[segment]))])))[0]["segments"][0]
    assert (fields["start"], fields["end"], fields["avg_logprob"]) == (1.5, 2.0, -0.25)


@given(name=st.text(st.characters(codec=None)))
def test_json_takes_any_name_in_any_encoding(name):
    for encoding, ascii_only in (("utf-8", False), ("ascii", True)):
        content = write_json({"file": name}, ascii_only)
        assert json.loads(content.encode(encoding)) == json.loads(json.dumps({"file": name}))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", content)
