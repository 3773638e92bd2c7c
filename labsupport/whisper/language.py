"""Which language is spoken, and whether the model knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.speech.segments import Span
from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.search import language_probs

NAMES = """
en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt portuguese, tr turkish,
pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id indonesian, hi hindi, fi finnish, vi vietnamese,
he hebrew, uk ukrainian, el greek, ms malay, cs czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian,
th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak,
te telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian,
mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk kazakh,
sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, yo yoruba, so somali,
af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao,
uz uzbek, fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish,
my myanmar, bo tibetan, tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir,
jw javanese, su sundanese, yue cantonese, my burmese, ca valencian, nl flemish, ht haitian, lb letzeburgesch, ps pushto,
pa panjabi, ro moldavian, ro moldovan, si sinhalese, es castilian, zh mandarin
"""  # as openai-whisper names them (tokenizer.py)
TASKS = ("transcribe", "translate")
VOTES = 3  # windows that say which language they hear: the first may be a greeting, a jingle, or another language


def find_code(language: str) -> str:
    """Whisper's code for a language that is given by its code or its English name, in any case; else as it is."""
    named = (entry.strip().partition(" ") for entry in NAMES.replace("\n", " ").split(","))
    return {name: code for code, _, name in named}.get(language.strip().lower(), language.strip().lower())


def find_name(code: str) -> str:
    """The English name of a language by Whisper's code, as openai-whisper writes it; a code that it lacks as it is."""
    named = (entry.strip().partition(" ") for entry in NAMES.replace("\n", " ").split(","))
    return {code: name for code, _, name in reversed(list(named))}.get("he" if code == "iw" else code, code)


def match_code(code: str | None, tokenizer: Tokenizer) -> str | None:
    """The code as this vocabulary has it: the first Whispers write Hebrew as "iw", later ones as "he"."""
    return "iw" if code == "he" and "he" not in tokenizer.languages else code


def check_language(model: WhisperModel, tokenizer: Tokenizer, language: str | None) -> None:
    """Raises WhisperError if the model does not know the language; None, to detect it, is always right."""
    if language is not None and language not in tokenizer.languages:
        known = ", ".join(sorted(tokenizer.languages))
        raise WhisperError(f"Whisper does not know the language {language!r}.", hint=f"It knows {known}.")
    if not model.config.multilingual and language not in (None, "en"):
        raise WhisperError(f"This model knows English alone, not {language!r}.", hint="Use the model base.")


def check_task(model: WhisperModel, task: str) -> None:
    """Raises WhisperError if there is no such task, or the model was not trained for it."""
    if task not in TASKS:
        raise WhisperError(f"Whisper has no task {task!r}.", hint=f"Choose one of: {', '.join(TASKS)}.")
    if task == "translate" and not model.config.multilingual:
        raise WhisperError("This model knows English alone: it cannot translate.", hint="Use the model base.")


def vote_language(
    model: WhisperModel, tokenizer: Tokenizer, windows: Sequence[Span], encode: Callable[[Span], EncoderOut]
) -> tuple[str, float]:
    """The likeliest language over several windows, and its mean probability.

    Args:
        windows: of speech; at least one.
        encode: window -> (1, 1500, d_model).
    """
    probs = np.mean([language_probs(model, encode(span), tokenizer)[0] for span in windows], axis=0)  # (languages,)
    return list(tokenizer.languages)[int(probs.argmax())], float(probs.max())
