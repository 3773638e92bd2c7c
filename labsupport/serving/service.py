"""The service itself, without HTTP: its model, its thread, its spool, and how a request goes through them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.serving import logs
from labsupport.serving.admission import Admission
from labsupport.serving.auth import Tokens
from labsupport.serving.jobs import Ask, Job
from labsupport.serving.metrics import Metrics
from labsupport.serving.problems import Problem
from labsupport.serving.scheduler import Scheduler
from labsupport.serving.schemas import TIMED, AudioForm, TranscriptionForm
from labsupport.serving.settings import DEFAULTS, Settings
from labsupport.serving.spool import Spool
from labsupport.speech import audio
from labsupport.speech.recording import Recording
from labsupport.whisper.language import check_language, check_task, find_code, match_code
from labsupport.whisper.transcribe import Transcriber

ALIAS = "whisper-1"  # what clients of OpenAI ask for
READERS = 2  # threads that decode sound beside the model's
LOADING_SECONDS = 5.0  # after which a client may ask again


class Service:
    """One model, and all that works for it. `start` loads it, `stop` ends the threads and removes the spool.

    Args:
        load: gives the transcriber; called in a thread of its own.
        tokens: that open the service; none, and it is open to everybody who reaches it.
        hosts: names by which it may be called, None for any.
        spool_parent: where uploads lie, by default the system's temporary folder.
        on_failure: called when the model cannot be loaded; `failure` then says why.

    Raises:
        FolderError: the spool cannot be made.
    """

    def __init__(
        self,
        load: Callable[[], Transcriber],
        settings: Settings = DEFAULTS,
        tokens: Tokens | None = None,
        hosts: frozenset[str] | None = None,
        spool_parent: Path | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self.load, self.settings, self.tokens, self.hosts = load, settings, tokens or Tokens(), hosts
        self.on_failure = on_failure
        self.metrics = Metrics()
        self.admission = Admission(settings.queue + settings.active, settings.active)
        self.spool = Spool(settings.spool_bytes, spool_parent)
        self.slots, self.readers = anyio.Semaphore(settings.active), anyio.CapacityLimiter(READERS)
        self.scheduler: Scheduler | None = None
        self.failure: Exception | None = None
        self.created = int(time.time())
        self.metrics.watch("lab_requests_inside", "Requests from upload to answer", lambda: self.admission.inside)
        self.metrics.watch("lab_spool_bytes", "Bytes of uploads that are stored", lambda: self.spool.bytes)
        self.metrics.watch("lab_ready", "1 once the model is loaded", lambda: float(self.ready))

    # --- life ---

    def start(self) -> None:
        threading.Thread(target=self.prepare, name="load", daemon=True).start()

    def prepare(self) -> None:
        try:
            began = time.monotonic()
            transcriber = self.load()
            scheduler = Scheduler(
                transcriber, self.settings.batch, self.settings.beams, self.metrics,
                lambda error: logs.write_error("decoding failed", error),
            )  # fmt: skip
            scheduler.start()
            self.scheduler = scheduler
            logs.write("ready", model=transcriber.label, engine=transcriber.model.backend,
                       seconds=round(time.monotonic() - began, 1))  # fmt: skip
        except Exception as error:  # noqa: BLE001
            self.failure = error
            self.on_failure()

    def stop(self) -> None:
        """A second call does nothing."""
        if self.scheduler:
            self.scheduler.stop()
        self.spool.close()

    @property
    def ready(self) -> bool:
        return self.scheduler is not None and self.scheduler.alive

    @property
    def transcriber(self) -> Transcriber:
        """Raises Problem while the model is loaded, and where its thread has ended."""
        if self.scheduler is None:
            raise Problem(503, "The model is being loaded.", code="loading", retry_after=LOADING_SECONDS)
        if not self.scheduler.alive:
            raise Problem(503, "The model's thread has ended.", code="dead")
        return self.scheduler.transcriber

    # --- requests ---

    def check_model(self, name: str) -> None:
        if name not in (self.transcriber.label, ALIAS):
            what = f"There is no model {name!r:.220}; this service has {self.transcriber.label!r}."
            raise Problem(404, what, code="model_not_found", param="model")

    def make_ask(self, form: AudioForm, task: str) -> Ask:
        """What the form asks for; Problem where the model cannot do it."""
        self.check_model(form.model)
        model, tokenizer = self.transcriber.model, self.transcriber.tokenizer
        try:
            check_task(model, task)
        except WhisperError as error:
            raise Problem(422, error.what, code="unsupported_task", param="model") from error
        language, granularities = None, list[str]()
        if isinstance(form, TranscriptionForm):
            granularities = list(form.timestamp_granularities)
            language = match_code(find_code(form.language), tokenizer) if form.language else None
        try:
            check_language(model, tokenizer, language)
        except WhisperError as error:
            raise Problem(422, error.what, code="unsupported_language", param="language") from error
        times = form.response_format in TIMED
        return Ask(language, task, form.prompt, form.temperature, times, "word" in granularities)

    async def read(self, job: Job) -> Recording:
        """The job's sound, in a thread; the errors are those of `audio.read_blocks`, and of `Job.check`."""
        return await anyio.to_thread.run_sync(self.analyse, job, limiter=self.readers)

    def analyse(self, job: Job) -> Recording:
        limits = audio.Limits(seconds=self.settings.audio_seconds, channels=self.settings.channels)
        return self.transcriber.analyse(check_between(audio.read_blocks(job.path, limits=limits), job), vad=True)

    def submit(self, job: Job, recording: Recording) -> None:
        assert self.scheduler is not None
        self.scheduler.submit(job, recording)


def check_between(blocks: Iterator[np.ndarray], job: Job) -> Iterator[np.ndarray]:
    """The same blocks (samples,), as long as somebody waits for the job."""
    job.check()
    for block in blocks:
        job.check()
        yield block
