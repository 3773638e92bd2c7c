"""Which language is spoken, and whether the model knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.speech.segments import Span
from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.search import language_probs

TASKS = ("transcribe", "translate")
VOTES = 3  # windows that say which language they hear: the first may be a greeting, a jingle, or another language


def check_language(model: WhisperModel, tokenizer: Tokenizer, language: str | None) -> None:
    """Raises WhisperError if the model does not know the language; None, to detect it, is always right."""
    if not model.config.multilingual and language not in (None, "en"):
        raise WhisperError(f"This model knows English alone, not {language!r}.", hint="Use the model base.")
    if language is not None and language not in tokenizer.languages:
        known = ", ".join(sorted(tokenizer.languages))
        raise WhisperError(f"Whisper does not know the language {language!r}.", hint=f"It knows {known}.")


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
