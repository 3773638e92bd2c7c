"""The service without HTTP: loading, failing, what a form asks for, and sound that is read while somebody waits."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from labsupport.base.errors import CheckpointError
from labsupport.serving.api import create_app
from labsupport.serving.jobs import Ask, Job
from labsupport.serving.problems import ClientGone, Problem
from labsupport.serving.schemas import TranscriptionForm, TranslationForm
from labsupport.serving.service import Service, check_between


@pytest.fixture
def service(tmp_path):
    service = Service(load=fail, spool_parent=tmp_path)
    yield service
    service.stop()
    assert list(tmp_path.iterdir()) == []


def fail():
    raise CheckpointError("There is no such model.")


def give_model(service, languages=("en", "de", "iw"), multilingual=True) -> None:
    model = SimpleNamespace(config=SimpleNamespace(multilingual=multilingual))
    tokenizer = SimpleNamespace(languages=dict.fromkeys(languages, 1))
    transcriber = SimpleNamespace(model=model, tokenizer=tokenizer, label="fake")
    service.scheduler = SimpleNamespace(transcriber=transcriber, alive=True, stop=lambda: None)


def test_until_the_model_is_there_clients_are_told_to_come_back(service):
    assert not service.ready
    with pytest.raises(Problem) as caught:
        service.check_model("tiny.en")
    assert (caught.value.status, caught.value.code) == (503, "loading")
    assert caught.value.retry_after > 0


def test_once_the_models_thread_has_ended_nothing_is_taken_any_more(service):
    service.scheduler = SimpleNamespace(alive=False, stop=lambda: None)
    client = TestClient(create_app(service))
    for path in ("/healthz", "/readyz", "/v1/models"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "dead"), path


def test_a_model_that_cannot_be_loaded_is_noted(service):
    told = []
    service.on_failure = lambda: told.append(True)
    service.prepare()
    assert isinstance(service.failure, CheckpointError)
    assert told == [True]
    assert not service.ready


def test_a_form_becomes_what_is_asked_for(service):
    give_model(service)
    form = TranscriptionForm(
        model="fake", language="German", prompt="names", response_format="verbose_json",
        **{"timestamp_granularities[]": ["word"]},
    )  # fmt: skip
    assert service.make_ask(form, "transcribe") == Ask("de", "transcribe", "names", 0.0, True, True)
    assert service.make_ask(TranslationForm(model="whisper-1"), "translate") == Ask(None, "translate")
    assert service.make_ask(TranscriptionForm(model="fake", language="he"), "transcribe").language == "iw"


@pytest.mark.parametrize(
    ("fields", "task", "status", "code"),
    [
        ({"model": "other"}, "transcribe", 404, "model_not_found"),
        ({"model": "fake", "language": "tlh"}, "transcribe", 422, "unsupported_language"),
        ({"model": "fake", "language": "de"}, "transcribe", 422, "unsupported_language"),
        ({"model": "fake"}, "translate", 422, "unsupported_task"),
    ],
)
def test_what_the_model_cannot_do_is_refused(service, fields, task, status, code):
    give_model(service, multilingual=False)
    with pytest.raises(Problem) as caught:
        service.make_ask(TranscriptionForm(**fields), task)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_sound_is_read_only_while_somebody_waits():
    read = []

    def blocks():
        for number in range(5):
            read.append(number)
            yield np.zeros(1, np.float32)

    async def run():
        job = Job(Ask(), None, limit=60)
        checked = check_between(blocks(), job)
        next(checked)
        job.end(ClientGone())
        with pytest.raises(ClientGone):
            next(checked)
        with pytest.raises(ClientGone):
            next(check_between(blocks(), job))

    asyncio.run(run())
    assert read == [0, 1]


def test_stopping_twice_is_no_error(service):
    service.stop()
    service.stop()
