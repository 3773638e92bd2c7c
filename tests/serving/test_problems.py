"""Every error has its status, in OpenAI's form, and says nothing of this machine."""

from __future__ import annotations

import errno

import pytest
from openai.types.shared import ErrorObject

from labsupport.base.errors import AudioError, AudioLimitError, NoAudio, WhisperError
from labsupport.serving.problems import Problem, explain, too_late


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoAudio("No sound.", where="/tmp/secret"), 415, "unsupported_audio"),
        (AudioLimitError("Too long.", where="/tmp/secret", hint="--max-hours"), 413, "audio_too_large"),
        (AudioError("Cut.", where="/tmp/secret"), 422, "invalid_audio"),
        (WhisperError("No such language."), 422, "invalid_request"),
        (MemoryError("secret"), 503, "no_memory"),
        (OSError(errno.ENOSPC, "secret"), 503, "no_storage"),
        (KeyError("secret"), 500, "internal_error"),
        (Problem(429, "Full.", code="queue_full"), 429, "queue_full"),
        (too_late(5), 504, "timeout"),
    ],
)
def test_an_error_has_its_status_and_openais_form(error, status, code):
    problem = explain(error)
    assert (problem.status, problem.code) == (status, code)
    assert ErrorObject.model_validate(problem.body()["error"], strict=True).code == code
    assert "secret" not in str(problem.body())
    assert "--" not in str(problem.body())


def test_a_client_is_told_whether_to_come_back():
    assert Problem(429, "", code="x", retry_after=2.2).headers() == {"retry-after": "3", "x-should-retry": "true"}
    assert Problem(503, "", code="x", retry_after=0.0).headers()["retry-after"] == "1"
    assert too_late(5).headers() == {"x-should-retry": "false"}
    assert Problem(401, "", code="x").headers()["www-authenticate"] == "Bearer"
