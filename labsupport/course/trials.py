"""The running model in which an exercise's answer takes the place of a part: Whisper tiny.en on real speech.

Its tokens are the judge: with the learner's part they must be those without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from labsupport import whisper
from labsupport.course.exercises import Wrong
from labsupport.speech import audio, features
from labsupport.whisper.protocol import EncoderOut
from labsupport.whisper.search import decode
from labsupport.whisper.token_filters import make_prompt
from labsupport.whisper.transcribe import Transcriber

MODEL, CLIP = "tiny.en", "jfk"


@functools.cache
def log_mel() -> np.ndarray:
    """The clip's first window, (1, 80, 3000) float32."""
    return features.window(features.log_mel(audio.read(audio.clip(CLIP).path)), 0)[None]


@functools.cache
def load_plain() -> Transcriber:
    """The model as it is, loaded once in a process."""
    return whisper.load(MODEL)


@functools.cache
def expected_tokens(beams: int = 1) -> tuple[int, ...]:
    """What the model as it is writes for the clip."""
    return tuple(find_tokens(load_plain(), beams))


def find_tokens(transcriber: Transcriber, beams: int = 1, encoder_out: EncoderOut | None = None) -> list[int]:
    """The tokens of the clip, without timestamps; `encoder_out` where it was encoded already."""
    model, rules = transcriber.model, replace(transcriber.rules, timestamps=False)
    prompt = make_prompt(transcriber.tokenizer, None, timestamps=False)
    encoder_out = model.encode(log_mel()) if encoder_out is None else encoder_out
    return decode(model, encoder_out, prompt, rules, beams)[0].tokens


def find_tokens_with_encoder(*, attention: Callable | None = None, **components: Callable) -> list[int]:
    """The tokens with these components (conv1d, run) in the encoder alone, which runs op by op: they may use NumPy.

    Args:
        attention: of the encoder's layers; the decoder's stays.
    """
    from labsupport.arrays import xp

    transcriber = whisper.load(MODEL)
    encoder = transcriber.model.encoder  # type: ignore[attr-defined]  # torch's and MindSpore's model, not onnx's
    for name, component in components.items():
        setattr(encoder, name, component)
    for layer in encoder.layers if attention else ():
        layer.self_attn.attention = attention
    mel = xp.asarray(log_mel(), like=encoder.conv1.weight)
    return find_tokens(transcriber, encoder_out=encoder(mel))


def check_tokens(found: list[int], beams: int = 1) -> str:
    """What a right answer is told; `Wrong` unless the tokens are those of the model as it is."""
    right = list(expected_tokens(beams))
    if found != right:
        text = load_plain().tokenizer.decode(found)
        place = next(
            (i for i, (a, b) in enumerate(zip(found, right, strict=False)) if a != b), min(len(found), len(right))
        )
        raise Wrong(f"token {place + 1} of {len(right)} is another one; the text begins {text[:80]!r}.")
    return f"All {len(right)} tokens of {CLIP} are equal."


def run_with(beams: int = 1, part: NumpyPart | None = None, **components: Any) -> str:
    """Loads the model with the components in place of its own, see `torch_model.Components`, and checks its tokens.

    Args:
        part: the learner's function, in whatever component; it must have been called.

    Raises:
        Wrong: other tokens come out, or the part was not called, which would prove nothing.
    """
    found = find_tokens(whisper.load(MODEL, **components), beams)
    if part is not None and not part.calls:
        raise Wrong("your function was never called.")
    return check_tokens(found, beams)


class NumpyPart:
    """A part that gives the learner's function NumPy arrays, and the model an array of its own again.

    calls: how often the model called it.
    """

    def __init__(self, answer: Callable):
        self.answer, self.calls = answer, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from labsupport.arrays import xp

        self.calls += 1
        tensors = [each for each in arguments if hasattr(each, "shape")]
        plain = [xp.to_numpy(each) if hasattr(each, "shape") else each for each in arguments]
        found, first = np.asarray(self.answer(*plain, **named)), xp.to_numpy(tensors[0])
        if found.dtype.kind == first.dtype.kind == "f":
            found = found.astype(first.dtype)  # lists and NumPy's zeros are float64; the model has one dtype
        return xp.asarray(found, like=tensors[0])
