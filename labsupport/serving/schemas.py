"""The fields of the forms, and the shapes of the answers, as OpenAI's API has them."""

from __future__ import annotations

import copy
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from labsupport.serving.problems import Problem

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
TIMED: tuple[ResponseFormat, ...] = ("srt", "vtt", "verbose_json")
LISTS = {
    "timestamp_granularities[]": "timestamp_granularities[]",
    "timestamp_granularities": "timestamp_granularities[]",
}
FILE = {
    "type": "string",
    "format": "binary",
    "description": "Any sound or video: wav, flac, mp3, m4a, ogg, webm, mp4 and more.",
}

# --- forms -----------------------------------------------------------------------------------------------------------


class AudioForm(BaseModel):
    """What both forms take beside `file`."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="The id of a model that `/v1/models` lists, or `whisper-1`."
    )
    prompt: Annotated[str, StringConstraints(max_length=10_000)] | None = Field(
        None, description="What might have been said before: names, style."
    )
    response_format: ResponseFormat = Field("json", description="The form of the answer.")
    temperature: float = Field(
        0.0, ge=0.0, le=1.0, allow_inf_nan=False,
        description="0: the likeliest text, and others where it fails; above it, texts are drawn.",
    )  # fmt: skip


class TranslationForm(AudioForm):
    """Speech in any language to English text."""


class TranscriptionForm(AudioForm):
    """Speech to text."""

    language: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        None, description="A code such as `en`, or an English name; detected if not given."
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        default_factory=list, alias="timestamp_granularities[]", max_length=2,
        description="For `verbose_json`: times of words, of segments, or both; of segments if not given.",
    )  # fmt: skip
    stream: bool = Field(
        False,
        description="Server-sent events: text as soon as it is found. With json, text or verbose_json; the last adds an"
        " event for each segment.",
    )
    chunking_strategy: Literal["auto"] | None = Field(
        None, description="The sound is always cut where a voice detector finds pauses."
    )


Kind = TypeVar("Kind", bound=AudioForm)


def parse_form(kind: type[Kind], fields: dict[str, list[str]], has_file: bool) -> Kind:
    """The form's fields as the client sent them -> checked values. Empty ones count as not given.

    Raises:
        Problem: 422, with the field's name.
    """
    if not has_file:
        what = "The form has no file: send the sound as the field `file`, with a file name."
        raise Problem(422, what, code="missing_parameter", param="file")
    values: dict[str, str | list[str]] = {}
    for name, texts in fields.items():
        if name in LISTS:
            values[LISTS[name]] = [*values.get(LISTS[name], []), *texts]
        elif len(texts) > 1:
            what = f"The field {name[:100]!r} was sent more than once."
            raise Problem(422, what, code="repeated_parameter", param=name[:100])
        elif texts[0]:
            values[name] = texts[0]
    try:
        form = kind.model_validate(values)
    except ValidationError as error:
        raise field_problem(error) from None
    check_together(form)
    return form


def field_problem(error: ValidationError) -> Problem:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = str(first["loc"][0])[:100]
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_parameter"}.get(first["type"], "invalid_value")
    return Problem(422, f"{name}: {first['msg']}", code=code, param=name)


def check_together(form: AudioForm) -> None:
    """Raises Problem where fields contradict each other."""
    if not isinstance(form, TranscriptionForm):
        return
    if form.timestamp_granularities and form.response_format != "verbose_json":
        what = "timestamp_granularities[] needs response_format=verbose_json."
        raise Problem(422, what, code="invalid_value", param="timestamp_granularities[]")
    if form.stream and form.response_format in ("srt", "vtt"):
        what = "A stream has the response_format json, text or verbose_json."
        raise Problem(422, what, code="invalid_value", param="stream")


def form_schema(kind: type[AudioForm]) -> dict:
    """The JSON schema of the whole form, with its file."""
    schema = copy.deepcopy(kind.model_json_schema())
    schema["properties"] = {"file": FILE, **schema["properties"]}
    schema["required"] = ["file", *schema["required"]]
    return schema


# --- answers ---------------------------------------------------------------------------------------------------------


class Usage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class Answer(BaseModel):
    """response_format=json"""

    text: str
    usage: Usage


class TimedWord(BaseModel):
    word: str
    start: float
    end: float


class TimedSegment(BaseModel):
    """text: with the space before it, so that all together are the whole text, in languages without spaces, too.

    tokens: of its text; seek: where its window begins, in hundredths of a second.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseAnswer(BaseModel):
    """response_format=verbose_json"""

    model_config = ConfigDict(serialize_by_alias=True)

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[TimedSegment] | None = None
    word_list: list[TimedWord] | None = Field(None, serialization_alias="words")
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ErrorContent(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorContent
