"""What goes wrong with a request, as HTTP status and in the form of OpenAI's errors."""

from __future__ import annotations

import math

from labsupport.base.errors import AudioError, AudioLimitError, LabError, NoAudio, ServingError

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Problem(ServingError):
    """A request's error.

    status: of HTTP; code: for programs; param: the form field that it is about.
    retry_after: seconds; None where the same request would fail again.
    """

    def __init__(
        self, status: int, what: str, *, code: str, param: str | None = None, retry_after: float | None = None
    ):
        super().__init__(what)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def body(self) -> dict:
        """As OpenAI writes errors."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.what, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`x-should-retry` is what the openai client goes by."""
        if self.retry_after is not None:
            return {"retry-after": str(max(1, math.ceil(self.retry_after))), "x-should-retry": "true"}
        extra = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return {**extra, "x-should-retry": "false"}


class ClientGone(Exception):
    """Nobody waits for the answer any more: no error of anybody, and nobody is told."""


def too_late(seconds: float) -> Problem:
    """retry_after is None: the same request would take as long again."""
    return Problem(504, f"It took longer than the {seconds:g} s that a request may take.", code="timeout")


def audio_problem(error: AudioError) -> Problem:
    """A sound that cannot be transcribed: no sound at all, too much of it, or a bad file.

    The reader's hints name options of the command line, and its places a temporary file: neither is given on.
    """
    if isinstance(error, AudioLimitError):
        return Problem(413, error.what, code="audio_too_large", param="file")
    if isinstance(error, NoAudio):
        return Problem(415, error.what, code="unsupported_audio", param="file")
    return Problem(422, error.what, code="invalid_audio", param="file")


def explain(error: Exception) -> Problem:
    """Any error as a problem; of one that nobody foresaw the client learns nothing."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, AudioError):
        return audio_problem(error)
    if isinstance(error, LabError):
        return Problem(422, error.what, code="invalid_request")
    if isinstance(error, MemoryError):
        return Problem(503, "This machine has too little memory at the moment.", code="no_memory", retry_after=10)
    if isinstance(error, OSError):
        return Problem(503, "This machine cannot store the upload at the moment.", code="no_storage", retry_after=10)
    return Problem(500, "The service failed on this request; its log says where.", code="internal_error")
