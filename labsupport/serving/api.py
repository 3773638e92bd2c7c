"""The routes: OpenAI's for sound, and those by which a service is run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from labsupport import __version__
from labsupport.base.errors import LabError
from labsupport.serving import pages
from labsupport.serving.exchange import AudioResponse
from labsupport.serving.gate import Gate, answer_http_error, answer_lab_error
from labsupport.serving.schemas import (
    Answer,
    AudioForm,
    ErrorAnswer,
    Health,
    ModelCard,
    ModelList,
    TranscriptionForm,
    TranslationForm,
    VerboseAnswer,
    form_schema,
)
from labsupport.serving.service import ALIAS, Service

SUMMARIES = {
    400: "The form is damaged.", 401: "The bearer token is missing or wrong.",
    403: "A page of another address asks.", 404: "There is no such model.", 408: "The upload is too slow.",
    413: "The upload, or its sound, is too large.", 415: "It is no form, or no sound.",
    422: "A field or the sound is not what it must be.", 429: "The queue is full: see Retry-After.",
    503: "The model is being loaded, or this machine is short of something: see Retry-After.",
    504: "It took longer than a request may.",
}  # fmt: skip
bearer = HTTPBearer(auto_error=False, description="Needed where the service was started with tokens.")


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": SUMMARIES[status]} for status in statuses}


def describe_audio(form: type[AudioForm]) -> dict[str, Any]:
    """What OpenAPI says of a route whose form is read piece by piece."""
    event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
    content = {"text/plain": {"schema": {"type": "string"}}, "text/event-stream": {"schema": event}}
    return {
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form_schema(form)}}}
        },
        "response_model": None,
        "responses": {
            200: {"model": Answer | VerboseAnswer, "content": content, "description": "The text."},
            **describe_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504),
        },
    }


def create_app(service: Service) -> FastAPI:
    """The whole service as an ASGI application, which starts and stops `service` with its own life."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="Speech Inference Lab", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Speech to text in the form of OpenAI's API; many requests are computed together.",
        redirect_slashes=False,
    )  # fmt: skip
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(LabError, answer_lab_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, answer_http_error)  # type: ignore[arg-type]
    add_audio(app, service)
    add_models(app, service)
    add_operation(app, service)
    pages.add_pages(app)
    return app


def add_audio(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/audio/transcriptions", tags=["audio"], summary="Speech to text", dependencies=[Depends(bearer)],
        **describe_audio(TranscriptionForm),
    )  # fmt: skip
    async def transcriptions(request: Request) -> Response:
        return AudioResponse(service, request, TranscriptionForm, "transcribe")

    @app.post(
        "/v1/audio/translations", tags=["audio"], summary="Speech to English text", dependencies=[Depends(bearer)],
        **describe_audio(TranslationForm),
    )  # fmt: skip
    async def translations(request: Request) -> Response:
        return AudioResponse(service, request, TranslationForm, "translate")


def add_models(app: FastAPI, service: Service) -> None:
    def card(name: str) -> ModelCard:
        service.check_model(name)
        return ModelCard(id=name, created=service.created, owned_by="speech-inference-lab")

    @app.get(
        "/v1/models", tags=["models"], summary="The models", dependencies=[Depends(bearer)],
        responses=describe_problems(401, 403, 503),
    )  # fmt: skip
    async def models() -> ModelList:
        return ModelList(data=[card(service.transcriber.label), card(ALIAS)])

    @app.get(
        "/v1/models/{model:path}", tags=["models"], summary="One model", dependencies=[Depends(bearer)],
        responses=describe_problems(401, 403, 404, 503),
    )  # fmt: skip
    async def model(model: str) -> ModelCard:
        return card(model)


def add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operation"], summary="Whether it lives", responses=describe_problems(503))
    async def healthz() -> Health:
        if service.scheduler:
            service.transcriber  # noqa: B018 (raises where the model's thread has ended)
        return Health()

    @app.get("/readyz", tags=["operation"], summary="Whether it can answer", responses=describe_problems(503))
    async def readyz() -> Health:
        service.transcriber  # noqa: B018 (raises while there is none)
        return Health()

    @app.get(
        "/metrics", tags=["operation"], summary="Counters for Prometheus", dependencies=[Depends(bearer)],
        response_class=Response, responses=describe_problems(401, 403),
    )  # fmt: skip
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
