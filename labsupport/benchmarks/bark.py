"""Article D's benchmark: latency, peak memory and throughput of Bark with each combination of tricks.

Every batch's numbers are appended to a file at once, so a run that was stopped goes on where it was. Variants come in
rounds, one after the other with a part of the samples each, so that a slow hour slows them all. A variant has the model
to itself: its weights are loaded before a batch, or in their store. Its peak, weights included, is that of one batch
more, in a process of its own, whose memory is what its tensors take.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import logging

from labsupport.bark import models
from labsupport.bark.generator import SAMPLED, BarkGenerator, BarkOutput
from labsupport.bark.static_cache import StaticBarkGenerator
from labsupport.bark.tokens import encode_text
from labsupport.base import plots
from labsupport.base.errors import BenchError
from labsupport.base.paths import atomic_write, lab_dir
from labsupport.machine.backend import on_cuda, synchronise
from labsupport.machine.description import describe_machine
from labsupport.optim.kv_cache import BUFFER_POOL
from labsupport.optim.offload import DiskStore, MemoryStore, Offloader
from labsupport.results import memory, rows
from labsupport.speech import corpus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARM_UP = 8  # semantic tokens
TOKENS = 256  # semantic tokens of a sample, as in the article: 5.1 s of sound
STAGES = ("semantic", "coarse", "fine", "codec")
TRICKS = ("fused", "half", "offload", "static")
CPU_HALVES = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16"}}


@dataclass(frozen=True)
class Variant:
    """A combination of tricks: fused attention, half precision, offload by stage, static caches with compiled steps."""

    fused: bool = False
    half: bool = False
    offload: bool = False
    static: bool = False

    @property
    def name(self) -> str:
        return "+".join(trick for trick in TRICKS if getattr(self, trick)) or "plain"

    @classmethod
    def parse(cls, name: str) -> Variant:
        """ "plain", or tricks with + between them.

        Raises:
            BenchError: there is no such trick.
        """
        tricks = set(name.split("+")) - {"plain"}
        if unknown := tricks - set(TRICKS):
            raise BenchError(f"There is no trick {sorted(unknown)[0]!r}.", hint=f"Known: plain, {', '.join(TRICKS)}.")
        return cls(**dict.fromkeys(tricks, True))


ARTICLES = tuple(Variant(*chosen) for chosen in product((False, True), repeat=3))  # every combination of its three
STATIC = tuple(Variant(True, half, offload, True) for half, offload in ((False, False), (True, False), (True, True)))
DEFAULT = (*ARTICLES, *STATIC)


@dataclass(frozen=True)
class Batch:
    """What one batch of samples took: seconds in all and by stage; and the most bytes at once, weights and all, as
    `measure_peak` found them for this variant and size.

    first: the first sample's number, which is the seed, too; codes: a checksum of what was said.
    """

    variant: str
    batch: int
    first: int
    seconds: float
    stages: dict[str, float]
    peak_bytes: int
    codes: int


@dataclass(frozen=True)
class Summary:
    """A variant's batches of one size: the median and its 95 % interval, from 1000 bootstrap samples.

    latency: seconds of a batch; interval: its ends, or None where one batch alone tells no spread; throughput: samples
    a second; same: the part of the batches, 0 to 1, that said what plain's did, code for code, or None where plain did
    not run.
    """

    variant: str
    batch: int
    runs: int
    latency: float
    interval: tuple[float, float] | None
    peak_bytes: float
    throughput: float
    stages: dict[str, float]
    same: float | None


def parse_variants(names: str | None) -> tuple[Variant, ...]:
    """Names with commas between them; the default ones where there are none.

    Raises:
        BenchError: there is no such trick.
    """
    return tuple(map(Variant.parse, names.split(","))) if names else DEFAULT


def parse_batch_sizes(sizes: str) -> tuple[int, ...]:
    """Batch sizes with commas between them.

    Raises:
        BenchError: one is no number.
    """
    try:
        return tuple(map(int, sizes.split(",")))
    except ValueError as error:
        raise BenchError(f"These are no batch sizes: {sizes!r}.", hint="Such as 1,8.") from error


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to run: samples for each variant and batch size, in so many rounds.

    Raises:
        BenchError: a batch holds more than there are samples, or a number is not positive.
    """

    checkpoint: str = "bark-small"
    variants: tuple[Variant, ...] = DEFAULT
    batches: tuple[int, ...] = (1,)
    samples: int = 100
    tokens: int = TOKENS
    rounds: int = 4

    def __post_init__(self) -> None:
        if min(self.samples, self.tokens, self.rounds, *self.batches) < 1 or max(self.batches) > self.samples:
            what = f"{self.samples} samples of {self.tokens} tokens cannot be spoken {self.batches} at a time."
            raise BenchError(what, hint="Take at least as many samples as the largest batch has.")

    def blocks(self) -> Iterator[tuple[Variant, int, list[int]]]:
        """(variant, batch size, first samples) in the order of the rounds; samples that fill no batch are left out."""
        for turn in range(self.rounds):
            for size, variant in product(self.batches, self.variants):
                firsts = range(0, self.samples - size + 1, size)
                yield variant, size, list(firsts)[turn :: self.rounds]

    def path(self) -> Path:
        """Where its batches are kept: one file for each checkpoint, length and machine."""
        name = Path(self.checkpoint).name
        return lab_dir() / "bench" / f"{describe_machine('torch').name}-{name}-{self.tokens}.jsonl"


def run(
    plan: Plan, on_progress: Callable[[int, int, str], None] = lambda done, total, at: None, fresh: bool = False
) -> list[Summary]:
    """Runs what is not yet in the plan's file, and summarises all of it.

    Args:
        on_progress: is told how many batches are done, of how many, and what is at work.
        fresh: forget what an earlier run left, with other code perhaps.

    Raises:
        BenchError: a variant wants half precision, for which there are no instructions; or the file is damaged.
    """
    if any(variant.half for variant in plan.variants):
        half_type(device_name())  # complains now, not after hours
    if fresh:
        plan.path().unlink(missing_ok=True)
    drop_torn_line(plan.path())
    batches = read(plan.path())
    known = {(b.variant, b.batch, b.first) for b in batches}
    todo = [
        (variant, size, [first for first in firsts if (variant.name, size, first) not in known])
        for variant, size, firsts in plan.blocks()
    ]
    todo, total = [block for block in todo if block[2]], sum(len(firsts) for _, _, firsts in todo)
    peaks = {(b.variant, b.batch): b.peak_bytes for b in batches}
    done = 0
    with measuring_process() as process:
        for variant, size, firsts in todo:
            at = f"{variant.name}, {size} at a time"
            if (variant.name, size) not in peaks:
                on_progress(done, total, f"{at}: measuring memory")
                peaks[variant.name, size] = process.submit(measure_peak, plan, variant, size).result()
            on_progress(done, total, at)
            with open_variant(plan.checkpoint, variant) as (generator, _):
                warm_up(generator, plan, variant, size)
                for first in firsts:
                    append(plan.path(), time_batch(generator, plan, variant, size, first, peaks[variant.name, size]))
                    done += 1
                    on_progress(done, total, at)
    wanted = {(variant.name, size, first) for variant, size, firsts in plan.blocks() for first in firsts}
    return summarise(batch for batch in read(plan.path()) if (batch.variant, batch.batch, batch.first) in wanted)


@contextmanager
def open_variant(checkpoint: str, variant: Variant) -> Iterator[tuple[BarkGenerator, Offloader | None]]:
    """A variant's generator, and its offloader if it has one; both gone afterwards."""
    dtype = half_type(device_name()) if variant.half else torch.float32
    model = models.load(checkpoint, "sdpa" if variant.fused else "eager", dtype, device_name())
    generator = (
        StaticBarkGenerator(model, sampling=SAMPLED, compiled=True)
        if variant.static
        else BarkGenerator(model, sampling=SAMPLED)
    )
    with tempfile.TemporaryDirectory() as folder, quiet_library():
        store = MemoryStore("cuda") if on_cuda() else DiskStore(Path(folder), cold=True)
        yield generator, Offloader(generator.stages(), store) if variant.offload else None
    BUFFER_POOL.free.clear()


@contextmanager
def quiet_library() -> Iterator[None]:
    """Without transformers' warning of a missing attention mask: Bark pads with a token of its own, and needs none."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def device_name() -> str:
    return "cuda" if on_cuda() else "cpu"


def half_type(device: str) -> torch.dtype:
    """float16 on a GPU; on a CPU the half precision that it has instructions for, bfloat16 first.

    Raises:
        BenchError: it has none, and would take many times as long.
    """
    if device == "cuda":
        return torch.float16
    features = set(describe_machine("torch").features)
    for name, needed in CPU_HALVES.items():
        if features & needed:
            return getattr(torch, name)
    raise BenchError("This CPU has no instructions for half precision.", hint="Leave out the variants with half.")


def measuring_process() -> ProcessPoolExecutor:
    """A process for `measure_peak`, whose memory is what its tensors take. It starts with the first measurement."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=memory.take_fresh_blocks)


def measure_peak(plan: Plan, variant: Variant, size: int) -> int:
    """The most bytes that the first batch needs at once, weights and all."""
    with open_variant(plan.checkpoint, variant) as (generator, offloader):
        warm_up(generator, plan, variant, size)
        if offloader:
            offloader.deactivate()
        weights = {*generator.model.parameters(), *generator.model.buffers()}
        static = BUFFER_POOL.idle_bytes + sum(part.nbytes for part in weights)
        return static + memory.peak_memory(lambda: generate_batch(generator, plan.tokens, plan, size, 0))[1]


def warm_up(generator: BarkGenerator, plan: Plan, variant: Variant, size: int) -> None:
    """Speaks a little, or at full length where a length has steps of its own to compile. Nothing of it is kept."""
    generate_batch(generator, plan.tokens if variant.static else min(plan.tokens, WARM_UP), plan, size, 0)


def time_batch(generator: BarkGenerator, plan: Plan, variant: Variant, size: int, first: int, peak: int) -> Batch:
    """Speaks one batch and times it."""
    generator.watch = clock = StageClock()
    output = generate_batch(generator, plan.tokens, plan, size, first)
    codes = zlib.crc32(output.fine.cpu().numpy().tobytes())
    return Batch(variant.name, size, first, sum(clock.seconds.values()), clock.seconds, peak, codes)


def generate_batch(generator: BarkGenerator, length: int, plan: Plan, size: int, first: int) -> BarkOutput:
    """The samples from `first` on, `length` tokens each, with their seed."""
    sentences = corpus.load("train")
    texts = [sentences[(first + place) % len(sentences)].text for place in range(size)]
    tokens, mask = (part.to(generator.model.device) for part in encode_text(texts, plan.checkpoint))
    torch.manual_seed(first)
    return generator.generate(tokens, mask, length)


class StageClock:
    """For `BarkGenerator.watch`: the seconds of each stage, the device's work included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        synchronise()
        start = time.perf_counter()
        yield
        synchronise()
        self.seconds[stage] = time.perf_counter() - start


# --- keeping ----------------------------------------------------------------------------------------------------------


def append(path: Path, batch: Batch) -> None:
    """One line, whole, at the file's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(batch)) + "\n")


def drop_torn_line(path: Path) -> None:
    """Takes off what a process that was killed had written of a line."""
    if path.exists() and not (written := path.read_bytes()).endswith(b"\n"):
        with atomic_write(path) as part:
            part.write_bytes(written[: written.rfind(b"\n") + 1])


def read(path: Path) -> list[Batch]:
    """The batches of a file; none where there is none.

    Raises:
        BenchError: a line is damaged.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    batches = []
    for number, line in enumerate(lines, 1):
        try:
            batches.append(Batch(**json.loads(line)))
        except (ValueError, TypeError) as error:
            where = f"{path}, line {number}"
            raise BenchError(f"This line is no batch: {error}", where=where, hint="Delete it.") from error
    return batches


# --- summing up -------------------------------------------------------------------------------------------------------


def summarise(batches: Iterable[Batch]) -> list[Summary]:
    """One summary for each variant and size, in the order in which they first came."""
    groups: dict[tuple[int, str], list[Batch]] = {}
    for batch in batches:
        groups.setdefault((batch.batch, batch.variant), []).append(batch)
    plain = {(b.batch, b.first): b.codes for group in groups.values() for b in group if b.variant == "plain"}
    return [summarise_group(group, plain) for group in groups.values()]


def summarise_group(group: list[Batch], plain: dict[tuple[int, int], int]) -> Summary:
    seconds = [batch.seconds for batch in group]
    latency, size = statistics.median(seconds), group[0].batch
    pairs = [plain[size, b.first] == b.codes for b in group if (size, b.first) in plain]
    return Summary(
        group[0].variant,
        size,
        len(group),
        latency,
        median_interval(seconds),
        statistics.median(batch.peak_bytes for batch in group),
        size / latency,
        {stage: statistics.median(batch.stages[stage] for batch in group) for stage in group[0].stages},
        statistics.fmean(pairs) if pairs else None,
    )


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median, by bootstrap; None where there is one value alone."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return None
    found = bootstrap((values,), np.median, n_resamples=1000, method="percentile", random_state=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


HEADING = ("variant", "batch", "runs", "latency (s)", "95 %", "peak (MB)", "samples/s", *STAGES, "as plain")


def table(summaries: Iterable[Summary]) -> list[list[str]]:
    """The heading and one line of texts a summary; stages in seconds."""
    lines = [
        [
            s.variant,
            str(s.batch),
            str(s.runs),
            f"{s.latency:.3g}",
            "{:.3g} to {:.3g}".format(*s.interval) if s.interval else "one run",
            f"{s.peak_bytes / 1e6:.0f}",
            f"{s.throughput:.3g}",
            *(f"{s.stages[stage]:.3g}" for stage in STAGES),
            "" if s.same is None else f"{100 * s.same:.0f} %",
        ]
        for s in summaries
    ]
    return [list(HEADING), *lines]


def record(plan: Plan, summaries: Iterable[Summary]) -> None:
    """Writes rows: latency with its peak memory, throughput, and each stage's seconds."""
    details: dict[str, Any] = {"model": plan.checkpoint, "group": "bark"}
    for s in summaries:
        interval = "95 % interval {:.4g} to {:.4g} s".format(*s.interval) if s.interval else "one run, so no interval"
        note = f"{plan.tokens} semantic tokens a sample; {interval}"
        spread = s.interval and s.interval[1] - s.interval[0]
        common = {"runs": s.runs, "peak_bytes": round(s.peak_bytes), **details}
        rows.record(f"Bark, {s.batch} at a time: {s.variant}", s.latency, "s", spread=spread, note=note, **common)
        rows.record(f"Bark's throughput: {s.variant}, {s.batch} at a time", s.throughput, "samples/s", **common)
        for stage, seconds in s.stages.items():
            rows.record(f"Bark's {stage}, {s.batch} at a time: {s.variant}", seconds, "s", runs=s.runs, **details)


def pareto(summaries: Iterable[Summary]) -> Figure:
    """Throughput against peak memory, a point for each variant and batch size, with its latency."""
    points = {f"{s.variant}, {s.batch} at a time: {s.latency:.3g} s": (s.peak_bytes, s.throughput) for s in summaries}
    return plots.trade(points, "samples a second", "Smaller is left, faster is up")


def draw(plan: Plan, summaries: Iterable[Summary]) -> Path:
    """The plot as a PNG beside the plan's file; gives its path."""
    path = plan.path().with_suffix(".png")
    with atomic_write(path) as part:
        part.write_bytes(plots.to_png(pareto(summaries)))
    return path
