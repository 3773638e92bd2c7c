"""Article D's benchmark: latency, peak memory and throughput of Bark with each combination of tricks.

Each batch is appended to a file at once, so that an interrupted run continues; what another version of torch measured,
or of the lab in another form, is not taken over. Variants run in rounds, with a part of the samples in each, so that
other load on the machine slows all of them. One model is in memory at a time. A variant's peak memory, weights
included, is that of one more batch, in a process whose memory is what its tensors take.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import logging as library_logging

from labsupport.bark import models
from labsupport.bark.generator import SAMPLED, BarkGenerator, BarkOutput
from labsupport.bark.static_cache import StaticBarkGenerator
from labsupport.bark.tokens import encode_text
from labsupport.base import json_lines, plots
from labsupport.base.errors import BenchError
from labsupport.base.paths import atomic_write, lab_dir, using_folder
from labsupport.benchmarks import bark_batches
from labsupport.benchmarks.bark_batches import Batch, Summary
from labsupport.machine import children
from labsupport.machine.backend import on_cuda, synchronise
from labsupport.machine.description import describe_machine
from labsupport.optim.kv_cache import BUFFER_POOL
from labsupport.optim.offload import DiskStore, MemoryStore, Offloader
from labsupport.results import memory, rows
from labsupport.speech import corpus

WARM_UP = 8  # semantic tokens
TOKENS = 256  # semantic tokens of a sample, as in the article: 5.1 s of sound
LONGEST = 768  # what fits behind the text in Bark's 1024 positions
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
        """ "plain", or tricks with + between them; raises BenchError if there is no such trick."""
        tricks = set(name.split("+")) - {"plain"}
        if unknown := tricks - set(TRICKS):
            raise BenchError(f"There is no trick {sorted(unknown)[0]!r}.", hint=f"Known: plain, {', '.join(TRICKS)}.")
        return cls(**dict.fromkeys(tricks, True))


DEFAULT = (
    *(Variant(*chosen) for chosen in product((False, True), repeat=3)),  # every combination of the article's three
    *map(Variant.parse, ("fused+static", "fused+half+static", "fused+half+offload+static")),
)


def parse_variants(names: str | None) -> tuple[Variant, ...]:
    """Names with commas between them, as `Variant.parse` reads them, each once; the default ones of None."""
    return DEFAULT if names is None else tuple(dict.fromkeys(map(Variant.parse, split_list(names, "variants"))))


def parse_batch_sizes(sizes: str) -> tuple[int, ...]:
    """Numbers with commas between them, each once; raises BenchError if one is no number."""
    try:
        return tuple(dict.fromkeys(map(int, split_list(sizes, "batch sizes"))))
    except ValueError as error:
        raise BenchError(f"These are no batch sizes: {sizes!r}.", hint="Such as 1,8.") from error


def split_list(text: str, what: str) -> list[str]:
    """The items between the commas; raises BenchError if there is none, or one is empty."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BenchError(f"The list of {what} is empty, or a part of it.", where=repr(text), hint="Such as a,b.")
    return items


def check_length(tokens: int) -> None:
    """Raises BenchError unless Bark can generate so many semantic tokens."""
    if not 1 <= tokens <= LONGEST:
        what = f"{tokens} semantic tokens cannot be generated: Bark has room for {LONGEST} of them, 15 s of sound."
        raise BenchError(what, hint=f"Take 1 to {LONGEST}; the article takes {TOKENS}.")


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to run: samples for each variant and batch size, in rounds.

    Raises:
        BenchError: a batch is larger than the number of samples, a number is not positive, there are more tokens than
            Bark has room for, or no variant or batch size at all.
    """

    checkpoint: str = "bark-small"
    variants: tuple[Variant, ...] = DEFAULT
    batches: tuple[int, ...] = (1,)
    samples: int = 100
    tokens: int = TOKENS
    rounds: int = 4

    def __post_init__(self) -> None:
        check_length(self.tokens)
        if not self.variants or not self.batches:
            raise BenchError("Nothing is to be measured: the variants or the batch sizes are none.", hint="Name one.")
        if min(self.samples, self.rounds, *self.batches) < 1 or max(self.batches) > self.samples:
            what = f"{self.samples} samples of {self.tokens} tokens cannot be generated {self.batches} at a time."
            raise BenchError(what, hint="Take at least as many samples as the largest batch has.")

    def blocks(self) -> Iterator[tuple[Variant, int, list[int]]]:
        """(variant, batch size, first samples) in the order of the rounds; samples that fill no batch are left out."""
        for turn in range(self.rounds):
            for size, variant in product(self.batches, self.variants):
                firsts = range(0, self.samples - size + 1, size)
                yield variant, size, list(firsts)[turn :: self.rounds]

    def path(self) -> Path:
        """The file of its batches, one for each checkpoint, length and machine."""
        name = Path(self.checkpoint).name
        return lab_dir() / "bench" / f"{describe_machine('torch').name}-{name}-{self.tokens}.jsonl"


def run(
    plan: Plan, on_progress: Callable[[int, int, str], None] = lambda done, total, at: None, fresh: bool = False
) -> list[Summary]:
    """Runs what is not yet in the plan's file, and summarises all of it.

    Args:
        on_progress: called with the number of batches done, their total, and what runs now.
        fresh: delete an earlier run's file.

    Raises:
        BenchError: the CPU lacks instructions for a variant's half precision.
        FolderError: the file cannot be written.
    """
    if any(variant.half for variant in plan.variants):
        half_type(device_name())  # raises now, not after hours
    with json_lines.open_whole(plan.path(), "LAB_HOME") as file:  # a folder that takes nothing is named now
        if fresh:
            file.truncate(0)
    batches = bark_batches.of_this_torch(bark_batches.read(plan.path()))
    todo = find_pending(plan, batches)
    peaks = {(batch.variant, batch.batch): batch.peak_bytes for batch in batches}
    done, total = 0, sum(len(firsts) for _, _, firsts in todo)
    with measuring_process() as process:
        for variant, size, firsts in todo:
            name = f"{variant.name}, {size} at a time"
            if (variant.name, size) not in peaks:
                on_progress(done, total, f"{name}: measuring memory")
                peaks[variant.name, size] = process.submit(measure_peak, plan, variant, size).result()
            on_progress(done, total, name)
            with open_variant(plan.checkpoint, variant) as (generator, _):
                warm_up(generator, plan, variant, size)
                for first in firsts:
                    batches.append(time_batch(generator, plan, variant, size, first, peaks[variant.name, size]))
                    bark_batches.append(plan.path(), batches[-1])
                    done += 1
                    on_progress(done, total, name)
    wanted = {(variant.name, size, first) for variant, size, firsts in plan.blocks() for first in firsts}
    return bark_batches.summarise(batch for batch in batches if batch.key in wanted)


def find_pending(plan: Plan, batches: Iterable[Batch]) -> list[tuple[Variant, int, list[int]]]:
    """The plan's blocks without these batches; no empty ones."""
    known = {batch.key for batch in batches}
    blocks = ((v, size, [n for n in firsts if (v.name, size, n) not in known]) for v, size, firsts in plan.blocks())
    return [block for block in blocks if block[2]]


@contextmanager
def open_variant(checkpoint: str, variant: Variant) -> Iterator[tuple[BarkGenerator, Offloader | None]]:
    """A variant's generator, and its offloader if it has one."""
    dtype = half_type(device_name()) if variant.half else torch.float32
    model = models.load(checkpoint, "sdpa" if variant.fused else "eager", dtype, device_name())
    kind = partial(StaticBarkGenerator, compiled=True) if variant.static else BarkGenerator
    generator = kind(model, sampling=SAMPLED)
    with tempfile.TemporaryDirectory() as folder, quiet_library():
        store = MemoryStore("cuda") if on_cuda() else DiskStore(Path(folder), cold=True)
        yield generator, Offloader(generator.stages(), store) if variant.offload else None
    BUFFER_POOL.free.clear()


@contextmanager
def quiet_library() -> Iterator[None]:
    """Without transformers' warning of a missing attention mask: Bark needs none, it has a padding token."""
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(before)


def device_name() -> str:
    return "cuda" if on_cuda() else "cpu"


def half_type(device: str) -> torch.dtype:
    """float16 on a GPU; on a CPU the type that it has instructions for, bfloat16 first.

    Raises:
        BenchError: it has none, and half precision would be many times slower.
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
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare_measuring)


def prepare_measuring() -> None:
    children.end_with_parent()
    memory.take_fresh_blocks()


def measure_peak(plan: Plan, variant: Variant, size: int) -> int:
    """Peak bytes of the first batch, weights included."""
    with open_variant(plan.checkpoint, variant) as (generator, offloader):
        warm_up(generator, plan, variant, size)
        if offloader:
            offloader.deactivate()
        weights = {*generator.model.parameters(), *generator.model.buffers()}
        static = BUFFER_POOL.idle_bytes + sum(part.nbytes for part in weights)
        return static + memory.peak_memory(lambda: generate_batch(generator, plan.tokens, plan, size, 0))[1]


def warm_up(generator: BarkGenerator, plan: Plan, variant: Variant, size: int) -> None:
    """Generates a few tokens, or all where compiled steps depend on the length; the output is dropped."""
    generate_batch(generator, plan.tokens if variant.static else min(plan.tokens, WARM_UP), plan, size, 0)


def time_batch(generator: BarkGenerator, plan: Plan, variant: Variant, size: int, first: int, peak: int) -> Batch:
    """Generates one batch and times it."""
    generator.watch = clock = StageClock()
    output = generate_batch(generator, plan.tokens, plan, size, first)
    codes = zlib.crc32(output.fine.cpu().numpy().tobytes())
    return Batch(
        variant.name, size, first, sum(clock.seconds.values()), clock.seconds, peak, codes, str(torch.__version__)
    )


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


# --- results ----------------------------------------------------------------------------------------------------------


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


def draw(plan: Plan, summaries: Iterable[Summary]) -> Path:
    """Writes the plot as a PNG beside the plan's file and returns its path."""
    path = plan.path().with_suffix(".png")
    with using_folder(path.parent, "LAB_HOME"), atomic_write(path) as part:
        part.write_bytes(plots.to_png(bark_batches.draw_bars(summaries)))
    return path
