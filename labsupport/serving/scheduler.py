"""The model's thread: windows of all requests in common batches, and one at a time what single windows need beyond."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from labsupport.results.memory import return_free_memory
from labsupport.serving.batching import Lane, take_batch
from labsupport.serving.jobs import Job
from labsupport.serving.metrics import Metrics
from labsupport.serving.problems import ClientGone
from labsupport.serving.watching import WatchedModel
from labsupport.serving.work import Work, begin, stack_windows
from labsupport.speech.recording import Recording
from labsupport.speech.segments import Span
from labsupport.whisper.protocol import EncoderOut
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.transcribe import Transcriber

Batch = list[tuple[Work, int, Span]]
Amendment = tuple[Work, int, Span, EncoderOut, Hypothesis]


class Scheduler:
    """Takes recordings and gives their jobs the text.

    Between two batches it amends one window whose text failed the guards, which takes as long as several batches:
    requests in order do not wait for all of those that are not.

    Args:
        batch: windows at once.
        report: is given an error that nobody foresaw.
    """

    def __init__(
        self, transcriber: Transcriber, batch: int, beams: int, metrics: Metrics, report: Callable[[Exception], None]
    ):
        self.transcriber = replace(transcriber, model=WatchedModel(transcriber.model, self.check))
        self.batch, self.beams, self.metrics, self.report = batch, beams, metrics, report
        self.arrived: deque[tuple[Job, Recording]] = deque()
        self.works: dict[int, Work] = {}  # by the id of their lane
        self.lanes: deque[Lane] = deque()
        self.amendments: deque[Amendment] = deque()
        self.served: Sequence[Job] = ()  # by what the model computes at this moment
        self.stopping = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.run, name="model", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def submit(self, job: Job, recording: Recording) -> None:
        """Begins with a job's recording; from any thread."""
        with self.changed:
            self.arrived.append((job, recording))
            self.changed.notify()

    def stop(self) -> None:
        """Ends the thread after what it computes at this moment."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def run(self) -> None:
        while self.wait():
            self.begin_arrived()
            self.drop_unwanted()
            self.decode_batch()
            self.amend_one()

    def wait(self) -> bool:
        """Until there is something to do; False where it is time to stop."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or self.arrived or self.works)
            return not self.stopping

    # --- requests ---

    def begin_arrived(self) -> None:
        while self.arrived:
            with self.changed:
                job, recording = self.arrived.popleft()
            with self.ending(job):
                work = begin(job, recording, self.transcriber, self.beams)
                self.works[id(work.lane)] = work
                self.lanes.append(work.lane)
                self.end_if_complete(work)

    def drop_unwanted(self) -> None:
        for work in [work for work in self.works.values() if not work.job.wanted]:
            with self.ending(work.job):
                self.check()

    def end_if_complete(self, work: Work) -> None:
        if work.complete:
            self.forget(work)
            work.finish()

    def forget(self, work: Work) -> None:
        if self.works.pop(id(work.lane), None):
            self.lanes.remove(work.lane)

    # --- the model ---

    def check(self) -> None:
        """Called before each run of the model: raises where no job is wanted any more, or the thread must end."""
        if self.stopping:
            raise ClientGone
        if self.served and not any(job.wanted for job in self.served):
            self.served[0].check()

    @contextmanager
    def serving(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Computes for these jobs alone."""
        self.served, began = jobs, time.perf_counter()
        try:
            yield
        finally:
            self.served = ()
            self.metrics.model_seconds.inc(time.perf_counter() - began)

    @contextmanager
    def ending(self, job: Job) -> Iterator[None]:
        """Computes for one job; an error ends it, and nothing else."""
        try:
            with self.serving([job]):
                yield
        except Exception as error:  # noqa: BLE001
            self.fail(job, error)

    def fail(self, job: Job, error: Exception) -> None:
        for work in [work for work in self.works.values() if work.job is job]:
            self.forget(work)
        if job.wanted:
            self.report(error)
        job.fail(error)

    def decode_batch(self) -> None:
        taken = take_batch(self.lanes, self.batch)
        if not taken:
            return
        groups = [[(self.works[id(lane)], number, window) for lane, number, window in taken]]
        while groups:
            group = groups.pop(0)
            try:
                self.decode(group)
            except Exception as error:  # noqa: BLE001
                apart = split_by_work(group)
                if len(apart) == 1:
                    self.fail(group[0][0].job, error)
                groups += apart if len(apart) > 1 else []  # one's error is no other's
        return_free_memory()  # of all threads: else free blocks between used ones add up over the hours

    def decode(self, batch: Batch) -> None:
        """Windows of one key: those that pass the guards are settled, the others are put aside."""
        with self.serving(list({id(work): work.job for work, _, _ in batch}.values())):
            encoder_out = self.transcriber.model.encode(stack_windows(batch))  # (windows, frames, d_model)
            hypotheses = batch[0][0].decode_first(encoder_out)
        self.metrics.batch_windows.observe(len(batch))
        for i, ((work, number, window), hypothesis) in enumerate(zip(batch, hypotheses, strict=True)):
            found = (work, number, window, encoder_out[i : i + 1], hypothesis)
            if work.is_settled(hypothesis):
                self.settle(*found)
            else:
                self.amendments.append(found)

    def settle(self, work: Work, number: int, window: Span, encoder_out: EncoderOut, hypothesis: Hypothesis) -> None:
        if id(work.lane) in self.works:
            with self.ending(work.job):
                work.settle(number, [work.cut(window, encoder_out, hypothesis)])
                self.end_if_complete(work)

    def amend_one(self) -> None:
        while self.amendments:
            work, number, window, encoder_out, hypothesis = self.amendments.popleft()
            if id(work.lane) in self.works:
                with self.ending(work.job):
                    work.settle(number, work.amend(window, encoder_out, hypothesis))
                    self.end_if_complete(work)
                return


def split_by_work(batch: Batch) -> list[Batch]:
    apart: dict[int, Batch] = {}
    for each in batch:
        apart.setdefault(id(each[0]), []).append(each)
    return list(apart.values())
