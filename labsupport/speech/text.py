"""Text: transcripts, the tokenizer, the normaliser, the word error rate."""

from __future__ import annotations

import functools
import json
import re
import runpy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from labsupport.base.errors import TextError


@dataclass(frozen=True)
class Word:
    """A word with its punctuation, and when it is said, in seconds; probability: the mean of its tokens'."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """The text between `start` and `end`, both in seconds from the beginning of the recording.

    The rest says how sure the model was of the window that it comes from, see `whisper.guards`: the mean
    log-probability of a token, how well the text compresses (a repeated one does), the probability that nothing is
    said, and the temperature that gave the text.
    """

    start: float
    end: float
    text: str
    word_timings: tuple[Word, ...] = ()
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0


@dataclass(frozen=True)
class Transcript:
    """The text of a whole recording.

    language: Whisper's code, such as "en"; language_probability: None where it was given, not detected.
    duration: of the recording, in seconds.
    """

    text: str
    segments: list[Segment]
    language: str
    language_probability: float | None = None
    duration: float = 0.0


# --- comparing texts ---------------------------------------------------------------------------------------------

# Written without spaces between words: Whisper's paper (appendix C) counts characters instead.
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def normalise(text: str, language: str = "en") -> str:
    """Removes differences that are no recognition errors: case, punctuation, spelled-out numbers, contractions.

    These are the normalisers of Whisper's paper (appendix C), as transformers ships them: the English one for "en",
    the basic one for every other language. transformers has no table of British spellings, so "colour" and "color"
    are two words here, which the paper counts as one.
    """
    return _load_normaliser(language)(text).strip()


@functools.cache
def _load_normaliser(language: str) -> Callable[[str], str]:
    # by path: importing transformers.models.whisper takes seconds and brings torch into a MindSpore process
    source = distribution("transformers").locate_file("transformers/models/whisper/english_normalizer.py")
    normalisers = runpy.run_path(str(source))
    if language == "en":
        return normalisers["EnglishTextNormalizer"]({})
    return normalisers["BasicTextNormalizer"](split_letters=language in SPACELESS)


def wer(reference: str, hypothesis: str, language: str = "en") -> float:
    """The word error rate of `hypothesis`: substituted, missing and added words over the words of `reference`.

    Both are normalised first. 0 is perfect; many added words give more than 1. In languages without spaces between
    words (`SPACELESS`) characters are counted. Raises TextError where the reference has no words.
    """
    import jiwer

    expected = normalise(reference, language)
    if not expected:
        raise TextError("The reference has no words, so there is no error rate.", where=repr(reference))
    return jiwer.wer(expected, normalise(hypothesis, language))


REPLACE = "Delete it and fetch or convert the model again."

# --- tokens ------------------------------------------------------------------------------------------------------


class Tokenizer:
    """Whisper's tokenizer from a folder with a `tokenizer.json`; special tokens are found by name, never by number.

    Attributes:
        sot, eot: start of the transcript; end of the text.
        sot_prev: before the text of the window before, when that is given as a prompt.
        transcribe, translate: the two tasks.
        no_speech: its probability is high in silence.
        no_timestamps: asks for text alone.
        size: one more than the largest id in the file.
        timestamp_begin: id of `<|0.00|>`; each id after it is 0.02 s later.
        languages: {code: id}, such as {"en": 50259}. English-only vocabularies have these ids too, without a use.

    Raises TextError when the file is missing, damaged, or lacks one of these tokens.
    """

    def __init__(self, folder: str | Path):
        self._file = Path(folder) / "tokenizer.json"
        self._tokenizer, self.size = _load_tokenizer(self._file)
        self.sot = self._find("<|startoftranscript|>")
        self.eot = self._find("<|endoftext|>")
        self.sot_prev = self._find("<|startofprev|>")
        self.transcribe = self._find("<|transcribe|>")
        self.translate = self._find("<|translate|>")
        self.no_speech = self._find("<|nospeech|>", "<|nocaptions|>")  # large-v3 renamed it
        self.no_timestamps = self._find("<|notimestamps|>")
        # CTranslate2's files end before the timestamps, whose ids come next
        self.timestamp_begin = self._tokenizer.token_to_id("<|0.00|>") or self.no_timestamps + 1
        self.languages = self._find_languages()

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone, without the special tokens around it.

        What is written like a special token is text, too: a prompt could otherwise end the transcript or begin another.
        """
        parts = re.split(r"(?<=<)(?=\|)", text)
        return [each for part in parts for each in self._tokenizer.encode(part, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`, with its leading space; timestamps count as special tokens."""
        text = self._tokenizer.decode([int(each) for each in ids], skip_special_tokens=skip_special)
        # to the library timestamps are ordinary tokens
        return re.sub(r"<\|\d+\.\d\d\|>", "", text) if skip_special else text

    def _find(self, *names: str) -> int:
        for name in names:
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return found
        raise TextError(f"The tokenizer has no {' or '.join(names)}.", where=self._file, hint="Is it a Whisper's?")

    def _find_languages(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder()
        codes = {number: re.fullmatch(r"<\|([a-z]{2,3})\|>", token.content) for number, token in added.items()}
        return {match[1]: number for number, match in sorted(codes.items()) if match}


def _load_tokenizer(file: Path):
    """The library's tokenizer, and one more than the largest id in its file."""
    import tokenizers

    try:
        content = file.read_text(encoding="utf-8")
        size = _count_ids(json.loads(content))  # tokenizers answers damaged JSON with a bare Exception
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "Give the folder of a converted or downloaded model."
        raise TextError("There is no tokenizer here.", where=file, hint=hint) from error
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise TextError(f"The tokenizer file is damaged: {error}", where=file, hint=REPLACE) from error
    try:
        return tokenizers.Tokenizer.from_str(content), size
    except Exception as error:
        raise TextError(f"The tokenizer file is damaged: {error}", where=file, hint=REPLACE) from error


def _count_ids(content: dict) -> int:
    """One more than the largest id in a tokenizer's JSON; TypeError or LookupError if that is no tokenizer's."""
    ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
    return 1 + max(ids)
