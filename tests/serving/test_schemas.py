"""The forms' fields, and that the openai package's own types hold what they send and what they get."""

from __future__ import annotations

import pytest
from openai.types.audio import transcription_create_params, translation_create_params

from labsupport.serving.problems import Problem
from labsupport.serving.schemas import TranscriptionForm, TranslationForm, form_schema, parse_form

NOT_HERE = {  # of other models of OpenAI's: logprobs, speakers, lists of languages and terms
    "include", "keywords", "known_speaker_names", "known_speaker_references", "languages",
}  # fmt: skip


def parse(kind=TranscriptionForm, **fields):
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return parse_form(kind, lists, has_file=True)


def test_the_fields_are_openais():
    ours = {name.removesuffix("[]") for name in form_schema(TranscriptionForm)["properties"]}
    theirs = set(transcription_create_params.TranscriptionCreateParamsBase.__annotations__) | {"stream"}
    assert theirs - ours == NOT_HERE
    assert ours - theirs == set()
    assert set(form_schema(TranslationForm)["properties"]) == set(
        translation_create_params.TranslationCreateParams.__annotations__
    )


def test_fields_become_values():
    granularities = {"timestamp_granularities[]": ["word"], "timestamp_granularities": ["segment"]}
    form = parse(
        model=" tiny.en ", language="", prompt="names", temperature="0.5", stream="true",
        response_format="verbose_json", **granularities,
    )  # fmt: skip
    assert (form.model, form.language, form.prompt) == ("tiny.en", None, "names")
    assert (form.temperature, form.stream) == (0.5, True)
    assert form.timestamp_granularities == ["word", "segment"]
    assert parse(model="x").response_format == "json"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_parameter", "model"),
        ({"model": "  "}, "invalid_value", "model"),
        ({"model": "x", "stream": "perhaps"}, "invalid_value", "stream"),
        ({"model": "x", "temperature": "-0.1"}, "invalid_value", "temperature"),
        ({"model": "x", "temperature": "inf"}, "invalid_value", "temperature"),
        ({"model": "x", "temperature": ["0", "0"]}, "repeated_parameter", "temperature"),
        ({"model": "x", "other" * 100: "x"}, "unknown_parameter", ("other" * 100)[:100]),
        ({"model": "x", "timestamp_granularities[]": ["letter"]}, "invalid_value", "timestamp_granularities[]"),
        ({"model": "x", "timestamp_granularities[]": ["word"] * 3}, "invalid_value", "timestamp_granularities[]"),
        ({"model": "x", "timestamp_granularities[]": ["word"]}, "invalid_value", "timestamp_granularities[]"),
        ({"model": "x", "stream": "1", "response_format": "vtt"}, "invalid_value", "stream"),
    ],
)
def test_wrong_fields_are_named(fields, code, param):
    with pytest.raises(Problem) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.code, caught.value.param) == (422, code, param)


def test_a_translation_has_no_language_and_no_stream():
    for name in ("language", "stream", "timestamp_granularities[]"):
        with pytest.raises(Problem, match="Extra inputs"):
            parse(TranslationForm, model="x", **{name: "en"})


def test_the_file_is_needed():
    with pytest.raises(Problem) as caught:
        parse_form(TranslationForm, {"model": ["x"]}, has_file=False)
    assert caught.value.param == "file"
    assert form_schema(TranslationForm)["required"] == ["file", "model"]
